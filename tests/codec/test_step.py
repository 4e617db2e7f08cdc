"""One step: how many operations it is, that recording it changes nothing, and what a shared batch does."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.operations import operations, refinement_of_noise
from ncbatch.codec.methods import LEARNED
from ncbatch.codec.model.hyperprior import Model
from ncbatch.codec.refinement.loop import JointRefinement
from ncbatch.codec.refinement.recorded_step import RecordedStep
from tests.codec.test_refinement import joint_refinement

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize(
    "fields",
    [
        *({"method": "sga", "rounding": rounding} for rounding in ("atanh", "linear", "cosine", "ssl")),
        {"method": "uniform-noise"},
        {"method": "deterministic-annealing"},
    ],
    ids=lambda fields: "-".join(fields.values()),
)
def test_a_step_is_few_operations_whatever_the_batch(model: Model, fields: dict[str, Any]) -> None:
    """Each of them is a kernel on a GPU, whose launch can take longer than its work."""
    recipe: Any = LEARNED[fields["method"]].model_validate({"lmbda": 0.01, "steps": 100, **fields})
    one, many = (operations(refinement_of_noise(model, recipe, batch)) for batch in (1, 32))
    _assert_the_batch_adds_none(one, many)
    assert one.total() <= 200, one


def _assert_the_batch_adds_none(one: Counter[str], many: Counter[str]) -> None:
    """Where oneDNN has AVX2 only, one image can cost a copy into another layout that a batch does not."""
    assert not many - one and (one - many).keys() <= {"copy_"}


def test_with_bits_back_the_batch_adds_no_operations(posterior_model: Model) -> None:
    recipe: Any = LEARNED["sga+bits-back"].model_validate({"lmbda": 0.01, "steps": 100})
    one, many = (operations(refinement_of_noise(posterior_model, recipe, batch)) for batch in (1, 4))
    _assert_the_batch_adds_none(one, many)


def test_images_that_share_their_tensors_descend_as_alone(model: Model, photograph: np.ndarray) -> None:
    """Kernels may round differently for a batch, so the first gradients are close and not the same."""
    crops = [photograph[:60, :100], photograph[100:164, 200:320], photograph[150:214, 100:180]]
    together = joint_refinement(model, crops)
    together.advance()
    for i, crop in enumerate(crops):
        alone = joint_refinement(model, [crop])
        alone.advance()
        expected_ones = gradients_of(alone)
        for name, gradient in gradients_of(together).items():
            expected = expected_ones[name]
            distance = (gradient[i : i + 1] - expected).norm() / expected.norm()
            assert distance < 0.02, (i, name)  # bfloat16, where the processor has it


def test_a_step_that_is_given_up_is_gone_at_once(model: Model, photograph: np.ndarray) -> None:
    """It has a graph and all activations of a GPU's step; the next one needs the memory."""
    work = joint_refinement(model, [photograph[:64, :64], photograph[64:128, :64]])
    work.advance()
    gc.disable()
    try:
        step = weakref.ref(work._steps)
        work._steps = work._steps.only([0])
        assert step() is None
    finally:
        gc.enable()


def gradients_of(work: JointRefinement) -> dict[str, torch.Tensor]:
    gradient = work._steps._values.grad
    assert gradient is not None
    return work._steps._by_name(gradient)


@needs_gpu
def test_a_recorded_step_is_the_step(
    model: Model, photograph: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_gpu = Model(model._checkpoint, "cuda")
    crops = [photograph[:128, :192], photograph[100:228, 200:392]]
    found = []
    for enabled in (True, False):
        monkeypatch.setattr(RecordedStep, "enabled", enabled)
        work = joint_refinement(on_gpu, crops, steps=60, check_every=10)
        for _ in range(12):
            work.advance()
        assert (work._steps._recorded._graph is not None) == enabled  # type: ignore[union-attr]
        found.append({name: value.detach().clone() for name, value in work.variables.items()})
    for name in found[0]:
        assert torch.allclose(found[0][name], found[1][name], atol=0.05), name
