"""Devices that are not exact are refused, whatever the reason and however little they are off."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ncbatch.codec.errors import InexactDeviceError, ModelError
from ncbatch.codec.model import hyperprior, known_answer
from ncbatch.codec.model.checkpoint import Checkpoint
from ncbatch.codec.model.exact_hyper_synthesis import MAX_ACTIVATION, ExactHyperSynthesis
from ncbatch.codec.model.hyperprior import Model

CPU = torch.device("cpu")


def kept(bits: int) -> Callable[[Tensor], Tensor]:
    """Rounds to so many bits below the largest value, as fixed-point emulation does."""

    def rounded(x: Tensor) -> Tensor:
        step = 2.0 ** (x.abs().max().log2().ceil() - bits)
        return (x / step).round() * step

    return rounded


class Emulated(ExactHyperSynthesis):
    """A device that adds up what `spoil` makes of the sums."""

    spoil: Callable[[Tensor], Tensor]

    def __init__(self, checkpoint: Checkpoint, spoil: Callable[[Tensor], Tensor], layer: int) -> None:
        super().__init__(checkpoint.integer_layers(), CPU)
        self.spoil, self._layer = spoil, layer

    def sums(self, index: int, x: Tensor) -> Tensor:
        sums = super().sums(index, x)
        return self.spoil(sums) if index == self._layer else sums


def test_the_cpu_is_exact(checkpoint: Checkpoint) -> None:
    known_answer.compare(ExactHyperSynthesis(checkpoint.integer_layers(), CPU), checkpoint)


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize(
    "spoil", [lambda x: x.float().double(), kept(32), kept(39)], ids=["float32", "32", "39"]
)
def test_too_few_bits_are_noticed(
    checkpoint: Checkpoint, spoil: Callable[[Tensor], Tensor], layer: int
) -> None:
    with pytest.raises(InexactDeviceError, match="CUBLAS_EMULATE_DOUBLE_PRECISION=0"):
        known_answer.compare(Emulated(checkpoint, spoil, layer), checkpoint)


def test_a_single_unit_in_a_single_sum_is_noticed(checkpoint: Checkpoint) -> None:
    def spoil(x: Tensor) -> Tensor:
        x = x.clone()
        x.view(-1)[-1] += 1
        return x

    with pytest.raises(InexactDeviceError, match="layer 2 of the integer h_s has 1 wrong values of"):
        known_answer.compare(Emulated(checkpoint, spoil, 2), checkpoint)


def test_factors_with_too_few_bits_are_noticed(checkpoint: Checkpoint) -> None:
    class Short(ExactHyperSynthesis):
        def sums(self, index: int, x: Tensor) -> Tensor:
            return super().sums(index, kept(22)(x))  # one bit less than activations have

    with pytest.raises(InexactDeviceError):
        known_answer.compare(Short(checkpoint.integer_layers(), CPU), checkpoint)


def test_what_is_computed_with_is_large_and_small() -> None:
    values = known_answer._integers((1, 64, 8, 12), MAX_ACTIVATION)
    assert values.abs().max() > 0.99 * MAX_ACTIVATION
    assert values.unique().numel() > 0.8 * values.numel()
    assert (values.abs() < 16).sum() >= values.numel() // 8
    assert abs(values.double().mean()) < 0.02 * MAX_ACTIVATION


def test_a_model_on_a_wrong_device_is_refused_and_a_right_one_is_tested_once(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Elsewhere(ExactHyperSynthesis):
        error, asked = 0.0, 0

        def sums(self, index: int, x: Tensor) -> Tensor:
            type(self).asked += 1
            return super().sums(index, x) + self.error

    monkeypatch.setattr(hyperprior, "ExactHyperSynthesis", Elsewhere)
    monkeypatch.setattr(known_answer, "_proven", set())
    monkeypatch.setattr(known_answer, "_TRUSTED", ())
    Elsewhere.error = 1.0
    with pytest.raises(ModelError, match="does not compute exactly"):
        Model(checkpoint)
    Elsewhere.error = 0.0
    Model(checkpoint)
    asked = Elsewhere.asked
    Model(checkpoint)
    assert Elsewhere.asked == asked > 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_exact(checkpoint: Checkpoint) -> None:
    known_answer.compare(ExactHyperSynthesis(checkpoint.integer_layers(), torch.device("cuda")), checkpoint)
