"""Inverse GDN by Triton against the separate operations; without a GPU by Triton's interpreter."""

from __future__ import annotations

import importlib.util
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ncbatch.codec.model import fused_gdn
from ncbatch.codec.model.checkpoint import Checkpoint
from ncbatch.codec.model.fused_gdn import FusedInverseGDN, usable
from ncbatch.codec.model.transforms import GDN, SUBPIXELS, InverseGDN, Transform
from ncbatch.codec.refinement.loop import JointRefinement
from tests.codec.test_refinement import joint_refinement

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")

INTERPRETED = """
import sys
import torch
from ncbatch.codec.model.fused_gdn import FusedInverseGDN, usable
from ncbatch.codec.model.transforms import GDN, InverseGDN

dtype = getattr(torch, sys.argv[1])
device = torch.device("cpu")
for channels, shape in ((64, (2, 5, 7)), (192, (1, 3, 6)), (24, (1, 4, 4)), (16, (1, 1, 1))):
    random = torch.Generator().manual_seed(channels)
    gamma, beta = torch.rand(channels, channels, generator=random), torch.rand(channels, generator=random)
    gdn = GDN.of(gamma * 0.2, beta + 0.5, dtype, device)
    weights = gdn.gamma, gdn.beta, gdn.gamma_transposed
    assert usable(InverseGDN, weights)
    values = torch.randn(shape[0], channels, *shape[1:], generator=random).to(dtype)
    grad = torch.randn(values.shape, generator=random).to(dtype)
    found = []
    for kind in (FusedInverseGDN, InverseGDN):
        x = values.clone().requires_grad_()  # not channels-last: that is put right
        out = kind.apply(x, *weights)
        out.backward(grad)
        found.append((out.detach().float(), x.grad.float()))
    for ours, theirs in zip(*found):
        off = (ours - theirs).abs().max() / theirs.abs().max()
        assert off < (1e-5 if dtype == torch.float32 else 0.005), (channels, off)
# Not the same where the weights are not.
wrong = (gdn.gamma * 1.5, gdn.beta, gdn.gamma_transposed)
class Other(InverseGDN):
    @staticmethod
    def forward(ctx, x, *weights):
        return InverseGDN.forward(ctx, x, *wrong)
assert not usable(Other, weights)
"""


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_kernels_give_what_the_separate_operations_give(dtype: str) -> None:
    """The interpreter cannot multiply matrices of bfloat16."""
    pytest.importorskip("triton", reason="Triton comes with PyTorch's builds for GPUs")
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    subprocess.run([sys.executable, "-c", INTERPRETED, dtype], env=environment, cwd=ROOT, check=True)


def test_without_a_gpu_triton_is_not_imported() -> None:
    code = """
import sys, torch
from ncbatch.models import zoo
from ncbatch.codec.model.hyperprior import Model
Model(zoo.load_builtin("base-0.010")).fast_synthesis(torch.zeros(1, 128, 4, 4))
assert not any(name.split(".")[0] == "triton" for name in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_where_the_kernels_fail_the_separate_operations_are_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("PTXAS error")

    monkeypatch.setattr(fused_gdn, "_launch", broken)
    gdn = GDN.of(torch.rand(16, 16), torch.rand(16) + 0.5, torch.float32, CPU)
    x = torch.randn(1, 16, 4, 4)
    with caplog.at_level(logging.WARNING, logger=fused_gdn.__name__):
        layer = gdn.inverse(fused=True)
    assert "separate operations here: PTXAS error" in caplog.text
    expected = InverseGDN.apply(x, gdn.gamma, gdn.beta, gdn.gamma_transposed)
    assert torch.equal(layer(x), expected)


def test_channels_beside_the_images_change_nothing(
    checkpoint: Checkpoint, model: Any, photograph: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, whose convolutions want a multiple of eight."""
    y = torch.randn(1, 128, 4, 6, generator=torch.Generator().manual_seed(0))
    weights = checkpoint.section("g_s")
    twelve, sixteen = (
        Transform(weights, "g_s", torch.float32, CPU, subpixels=channels)(y) for channels in (SUBPIXELS, 16)
    )
    assert sixteen.shape == (1, 16, 32, 48) and not bool(sixteen[:, 12:].any())
    assert torch.allclose(sixteen[:, :12], twelve, atol=1e-5)

    def refined() -> JointRefinement:
        work = joint_refinement(model, [photograph[:60, :100]], steps=4, check_every=2, learning_rate=0.05)
        for _ in range(4):
            work.advance()
        return work

    plain = refined()
    wide = Transform(weights, "g_s", model.fast_synthesis.dtype, CPU, subpixels=16)
    monkeypatch.setattr(model, "fast_synthesis", wide)
    monkeypatch.setattr(type(model), "subpixels", 16)
    padded = refined()
    assert padded._steps.originals.subpixels.shape[1] == 16
    assert padded.best_loss.item() == pytest.approx(plain.best_loss.item(), rel=1e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels", [64, 128, 192])
def test_on_a_gpu_they_are_used(channels: int, dtype: torch.dtype) -> None:
    stored = torch.rand(channels, channels) * 0.2, torch.rand(channels) + 0.5
    gdn = GDN.of(*stored, dtype, torch.device("cuda"))
    assert FusedInverseGDN.enabled and usable(InverseGDN, (gdn.gamma, gdn.beta, gdn.gamma_transposed))
