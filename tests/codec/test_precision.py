"""Switches of torch's libraries are put back. They can be set without a GPU, where they mean nothing."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from ncbatch.codec import measure as measure_module
from ncbatch.codec.encode import encode
from ncbatch.codec.methods import Sga
from ncbatch.codec.model import hyperprior
from ncbatch.codec.model.checkpoint import Checkpoint
from ncbatch.codec.model.hyperprior import Model, fast_dtype, fast_hyper_dtype, to_tensor
from ncbatch.codec.model.precision import fastest_kernels, full_float32
from ncbatch.codec.model.transforms import SUBPIXELS, Transform
from ncbatch.codec.refinement import latents as latents_module
from ncbatch.codec.refinement.latents import PosteriorSpace
from ncbatch.codec.refinement.step import Step

GPU, CPU = torch.device("cuda"), torch.device("cpu")
CUDNN: Any = torch.backends.cudnn
MATMUL: Any = torch.backends.cuda.matmul
NEW = hasattr(CUDNN, "conv")


def tf32() -> tuple[bool, bool]:
    """Whether convolutions and matrix products may use it."""
    if NEW:
        return CUDNN.conv.fp32_precision == "tf32", MATMUL.fp32_precision == "tf32"
    return CUDNN.allow_tf32, MATMUL.allow_tf32


def switches() -> tuple[object, ...]:
    return CUDNN.deterministic, CUDNN.benchmark, tf32()


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = switches()
    yield
    CUDNN.benchmark = False
    torch.set_float32_matmul_precision("highest")
    assert switches() == before


@pytest.mark.parametrize("matmul", ["highest", "high"])
def test_full_float32_is_for_a_block_only(matmul: str) -> None:
    torch.set_float32_matmul_precision(matmul)
    CUDNN.benchmark = True
    before = switches()
    assert before == (False, True, (True, matmul == "high"))
    with pytest.raises(ZeroDivisionError), full_float32(GPU):
        assert switches() == (True, False, (False, False))
        with full_float32(GPU):
            assert switches() == (True, False, (False, False))
            F.conv2d(torch.ones(1, 1, 3, 3), torch.ones(1, 1, 3, 3))  # torch accepts the combination
        assert switches() == (True, False, (False, False))
        raise ZeroDivisionError
    assert switches() == before


def test_on_a_cpu_nothing_is_switched() -> None:
    before = switches()
    with full_float32(CPU):
        assert switches() == before


@pytest.mark.skipif(not NEW, reason="older releases have one set of names")
def test_a_process_that_uses_the_newer_names_may_code() -> None:
    """`torch.backends.cudnn.flags` raises there."""
    CUDNN.conv.fp32_precision = "ieee"
    try:
        with full_float32(GPU):
            assert tf32() == (False, False)
    finally:
        CUDNN.conv.fp32_precision = "tf32"


@pytest.mark.parametrize("other", [full_float32, fastest_kernels])
def test_nobody_switches_anything_while_a_thread_needs_all_bits(other: Any) -> None:
    """Neither a thread that chooses a step's kernels, nor one that comes and goes."""
    before, wrong = switches(), []
    done = threading.Event()

    def coming_and_going() -> None:
        while not done.is_set():
            with other(GPU):
                pass

    threads = [threading.Thread(target=coming_and_going) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(200):
        with full_float32(GPU):
            wrong += [found for _ in range(20) if (found := switches()) != (True, False, (False, False))]
    done.set()
    for thread in threads:
        thread.join(60)
    assert not wrong and switches() == before


class Float32Products(TorchDispatchMode):
    """Notes where convolutions and matrix products in float32 are: the innermost block that was entered."""

    KINDS = ("convolution", "convolution_backward", "mm", "addmm", "bmm", "baddbmm")

    def __init__(self) -> None:
        super().__init__()
        self.blocks, self.found = ["none"], set[str]()

    @contextlib.contextmanager
    def block(self, name: str) -> Iterator[None]:
        self.blocks.append(name)
        yield
        self.blocks.pop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in self.KINDS and args[0].dtype == torch.float32:
            self.found.add(self.blocks[-1])
        return func(*args, **(kwargs or {}))


def test_tf32_can_matter_in_steps_only(
    checkpoint: Checkpoint, photograph: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all that becomes of an image, where the loop's g_s is in bfloat16, as wherever there is TF32."""
    model = Model(checkpoint)
    section = checkpoint.section("g_s")
    in_bfloat16 = Transform(section, "g_s", torch.bfloat16, model.device, subpixels=SUBPIXELS)
    monkeypatch.setitem(model.__dict__, "fast_synthesis", in_bfloat16)
    products, descend = Float32Products(), Step.descend

    def step(self: Step) -> None:
        with products.block("step"):
            descend(self)

    monkeypatch.setattr(Step, "descend", step)
    for module in (hyperprior, latents_module, measure_module):
        monkeypatch.setattr(module, "full_float32", lambda device: products.block("full"))
    with products:
        encode(model, [photograph[:192, :192]], Sga(lmbda=0.01, steps=4, check_every=2))
    assert products.found == {"step", "full"}


def test_threads_wait_for_each_other() -> None:
    """Or the second would put back what the first had set, for good."""
    inside, leave = threading.Event(), threading.Event()

    def first() -> None:
        with full_float32(GPU):
            inside.set()
            leave.wait(60)

    def second() -> None:
        inside.wait(60)
        leave.set()
        with full_float32(GPU):
            assert CUDNN.deterministic

    threads = [threading.Thread(target=work) for work in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not CUDNN.deterministic


class Noted:
    """Stands for a part of a model; notes whether it computes with full float32."""

    def __init__(self, part: Any, inside: list[str], seen: list[tuple[str, bool]], name: str) -> None:
        self._part, self._inside, self._seen, self._name = part, inside, seen, name

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self._note(self._part(x))

    def bits(self, z: torch.Tensor, extents: None = None) -> torch.Tensor:
        return self._note(self._part.bits(z, extents=extents))

    def _note(self, result: torch.Tensor) -> torch.Tensor:
        self._seen.append((self._name, bool(self._inside)))
        return result


def test_what_initialises_or_is_reported_is_computed_with_full_float32(
    posterior_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside: list[str] = []
    seen: list[tuple[str, bool]] = []

    @contextlib.contextmanager
    def noting(device: torch.device) -> Iterator[None]:
        assert device == CPU
        inside.append("")
        yield
        inside.pop()

    for module in (hyperprior, latents_module):
        monkeypatch.setattr(module, "full_float32", noting)
    for name in ("analysis", "hyper_analysis", "synthesis", "prior"):
        noted = Noted(getattr(posterior_model, name), inside, seen, name)
        monkeypatch.setitem(posterior_model.__dict__, name, noted)
    image = to_tensor(np.zeros((64, 64, 3), np.uint8), CPU)
    latents = posterior_model.round(*posterior_model.analyse(image))
    posterior_model.information(latents)
    posterior_model.synthesise(posterior_model.y_hat(latents))
    PosteriorSpace(posterior_model).begin([*image], 64, 64)
    assert {name for name, _ in seen} == {"analysis", "hyper_analysis", "synthesis", "prior"}
    assert all(full for _, full in seen), seen


@pytest.mark.parametrize(
    ("capability", "hip", "expected"),
    [
        ((7, 5), None, torch.float32),
        ((8, 0), None, torch.bfloat16),
        ((9, 0), None, torch.bfloat16),
        ((12, 0), None, torch.bfloat16),
        ((7, 5), "6.2", torch.bfloat16),
    ],
)
def test_bfloat16_is_used_where_the_hardware_has_it(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], hip: str | None, expected: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.version, "hip", hip)
    assert fast_dtype(GPU) == expected
    assert fast_hyper_dtype(GPU) == torch.float32, "means of zoo models reach 49"
    assert fast_hyper_dtype(CPU) == fast_dtype(CPU)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_synthesises_the_same_each_time(model: Model, checkpoint: Checkpoint) -> None:
    y_hat = 3 * torch.randn(2, model.info.m, 20, 28, generator=torch.Generator().manual_seed(0))
    there = Model(checkpoint, "cuda")
    first = there.synthesise(y_hat.cuda())
    assert torch.equal(first, there.synthesise(y_hat.cuda()))
    assert (first.cpu() - model.synthesise(y_hat)).abs().max() < 1e-4, "TF32 would be off by 1e-3 and more"
