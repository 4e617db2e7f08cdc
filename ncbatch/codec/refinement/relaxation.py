"""Relaxations: how a real proxy variable becomes a (nearly) rounded one at each step.

Each takes values on the grid's scale, the temperature and uniform noise in (0, 1), elementwise, and is
differentiable in the values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ncbatch.codec.methods import (
    DeterministicAnnealing,
    Map,
    Refined,
    Sga,
    SgaBitsBack,
    Ste,
    UniformNoise,
)
from ncbatch.codec.recipe import Rounding

_CLIP = 1e-5  # keeps the logits finite, as in the authors' code
_SSL_SLOPE = 2.3

_backward = torch.ops.aten  # autograd's own formulas of gradients, each one operation


class _Logit(Protocol):
    """Log-odds of rounding up at tau = 1, by the fraction above the floor."""

    @staticmethod
    def value(fraction: Tensor) -> Tensor:
        """The log-odds, in a tensor of their own."""

    @staticmethod
    def gradient(grad: Tensor, fraction: Tensor) -> Tensor:
        """`grad` times the derivative, which is zero where the log-odds are clipped."""


class _Atanh:
    """The paper's: log-probabilities -atanh(distance), each clipped where its distance is nearly one."""

    @staticmethod
    def value(fraction: Tensor) -> Tensor:
        up = (1 - fraction).clamp_max(1 - _CLIP)
        down = fraction.clamp_max(1 - _CLIP)
        return torch.atanh(down) - torch.atanh(up)

    @staticmethod
    def gradient(grad: Tensor, fraction: Tensor) -> Tensor:
        # 1 / (1 - f^2) + 1 / (1 - (1 - f)^2) = 1/2 / q + 3/2 / (q + 2), where q is f (1 - f). Where q is
        # nearly 0, one of the first two is clipped, and the other is nearly 1.
        product = torch.addcmul(fraction, fraction, fraction, value=-1)
        inside = (grad / torch.rsub(product, 4 / 3, alpha=-2 / 3)).addcdiv_(grad, product, value=0.5)
        return torch.where(product > _CLIP * (1 - _CLIP), inside, grad)


class _Linear:
    """Log-odds of probabilities that are the distances themselves."""

    @staticmethod
    def value(fraction: Tensor) -> Tensor:
        return torch.logit(fraction, _CLIP)

    @staticmethod
    def gradient(grad: Tensor, fraction: Tensor) -> Tensor:
        return _backward.logit_backward(grad, fraction, _CLIP)


class _Cosine:
    """cos^2 of the distance times pi/2 for floor, sin^2 for ceiling."""

    @staticmethod
    def value(fraction: Tensor) -> Tensor:
        return 2 * torch.log(torch.tan(fraction.clamp(_CLIP, 1 - _CLIP) * (torch.pi / 2)))

    @staticmethod
    def gradient(grad: Tensor, fraction: Tensor) -> Tensor:
        clipped = fraction.clamp(_CLIP, 1 - _CLIP)
        inside = _backward.hardtanh_backward(grad, fraction, _CLIP, 1 - _CLIP)
        return inside.div_(clipped.mul_(torch.pi).sin_()).mul_(2 * torch.pi)


class _Ssl:
    """Sigmoid of the scaled logit."""

    @staticmethod
    def value(fraction: Tensor) -> Tensor:
        return torch.logit(fraction, _CLIP).mul_(_SSL_SLOPE)

    @staticmethod
    def gradient(grad: Tensor, fraction: Tensor) -> Tensor:
        return _backward.logit_backward(grad, fraction, _CLIP).mul_(_SSL_SLOPE)


_LOGITS: dict[Rounding, type[_Logit]] = {"atanh": _Atanh, "linear": _Linear, "cosine": _Cosine, "ssl": _Ssl}


def rounding_logit(fraction: Tensor, tau: float | Tensor, rounding: Rounding = "atanh") -> Tensor:
    """Log-odds of rounding up a value `fraction` in [0, 1) above its floor, before the Gumbel noise.

    The unnormalised log-probabilities of floor and ceiling are divided by tau. Besides the paper's there are
    those of SGA+ (Perugachi-Diaz, Gansekoele, Bhulai, "Robustly overfitting latents for flexible neural image
    compression", 2024), whose probabilities at tau = 1 are linear, a squared cosine, or a scaled sigmoid.
    """
    return _LOGITS[rounding].value(fraction).div_(tau)


class Heat(NamedTuple):
    """What a temperature does to log-odds: they become slope * logit + scale * noise.

    Tensors that broadcast against latents: float32[images, 1, 1, 1], since each image has a temperature.
    """

    slope: Tensor
    scale: Tensor


class _SoftRounding(torch.autograd.Function):
    """floor + sigmoid(slope * logit + noise): one node in the place of about ten."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, noise: Tensor | None, slope: Tensor, rounding: Rounding) -> Tensor:
        floor = values.floor()
        fraction = values - floor
        up = _LOGITS[rounding].value(fraction)
        if noise is None:
            up.mul_(slope)
        else:
            torch.addcmul(noise, up, slope, out=up)
        up.sigmoid_()
        ctx.save_for_backward(fraction, up)
        ctx.slope, ctx.rounding = slope, rounding
        return floor.add_(up)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        fraction, up = ctx.saved_tensors
        through = _backward.sigmoid_backward(grads[0], up).mul_(ctx.slope)
        return _LOGITS[ctx.rounding].gradient(through, fraction), None, None, None


def stochastic_gumbel_annealing(
    values: Tensor, tau: float, uniform: Tensor, rounding: Rounding = "atanh", noise: float = 1.0
) -> Tensor:
    """A Gumbel-softmax sample between floor and ceiling.

    Of two categories only the difference of the logits counts, and the difference of two Gumbel variables
    is logistic, so one uniform number per element is enough. The temperature enters twice: in the logits
    and in the relaxed sample.

    Args:
        values: any shape.
        tau: the temperature.
        uniform: in (0, 1), of the same shape.
        rounding: which log-odds.
        noise: factor of the Gumbel noise; 1 is the paper's. Less of it explores less and converges sooner.
    """
    slope, scale = values.new_tensor(_gumbel_heat(tau, noise))
    return _SoftRounding.apply(values, torch.logit(uniform) * scale, slope, rounding)


def _gumbel_heat(tau: float, noise: float) -> tuple[float, float]:
    """(logit / tau + noise) / tau."""
    return 1 / tau**2, noise / tau


def straight_through(values: Tensor) -> Tensor:
    """Rounded, with the gradient of the identity (A2)."""
    return values + (values.round() - values).detach()


@dataclass(frozen=True)
class Relaxation:
    """A recipe's relaxation as the loop calls it."""

    recipe: Refined

    @property
    def wants_noise(self) -> bool:
        """Whether it is to be given uniform noise."""
        return isinstance(self.recipe, Sga | SgaBitsBack | UniformNoise)

    def heat(self, step: int) -> tuple[float, float]:
        """The temperature of a step, as `Heat` takes it; of no effect where the method has none."""
        recipe = self.recipe
        match recipe:
            case Sga() | SgaBitsBack():
                return _gumbel_heat(recipe.tau(step), recipe.noise)
            case DeterministicAnnealing():
                return 1 / recipe.tau(step), 0.0
            case _:
                return 1.0, 0.0

    def noise(self, uniform: Tensor, scale: Tensor) -> Tensor:
        """The noise that is added, from uniform noise in (0, 1): centred, or logistic.

        Args:
            uniform: float32[images, elements].
            scale: of the step's `Heat`, float32[images, 1].
        """
        if isinstance(self.recipe, UniformNoise):
            return uniform - 0.5
        return torch.logit(uniform).mul_(scale)

    def __call__(self, values: Tensor, heat: Heat, noise: Tensor | None) -> Tensor:
        """Relaxed values.

        Args:
            values: of a variable, on the grid's scale.
            heat: of the step.
            noise: from `noise`, of the same shape; None where `wants_noise` is false.
        """
        recipe = self.recipe
        match recipe:
            case Map():  # A1: as it is, and rounded at the end
                return values
            case Ste():
                return straight_through(values)
            case DeterministicAnnealing():  # A4: the mean under the probabilities; tau enters once
                return _SoftRounding.apply(values, None, heat.slope, "atanh")
            case UniformNoise():  # A3, as in training
                assert noise is not None
                return values + noise
            case Sga() | SgaBitsBack():
                assert noise is not None
                return _SoftRounding.apply(values, noise, heat.slope, recipe.rounding)
