"""Relaxations: how a real proxy variable becomes a (nearly) rounded one at each step.

Each takes values on the grid's scale, the temperature and uniform noise in (0, 1), elementwise, and is
differentiable in the values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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


def _atanh(fraction: Tensor) -> Tensor:
    """The paper's: log-probabilities -atanh(distance)."""
    up = (1 - fraction).clamp_max(1 - _CLIP)
    down = fraction.clamp_max(1 - _CLIP)
    return torch.atanh(down) - torch.atanh(up)


def _linear(fraction: Tensor) -> Tensor:
    return torch.logit(fraction, _CLIP)


def _cosine(fraction: Tensor) -> Tensor:
    """cos^2 of the distance times pi/2 for floor, sin^2 for ceiling."""
    return 2 * torch.log(torch.tan(fraction.clamp(_CLIP, 1 - _CLIP) * (torch.pi / 2)))


def _ssl(fraction: Tensor) -> Tensor:
    """Sigmoid of the scaled logit."""
    return _SSL_SLOPE * torch.logit(fraction, _CLIP)


_LOGITS: dict[Rounding, Callable[[Tensor], Tensor]] = {
    "atanh": _atanh,
    "linear": _linear,
    "cosine": _cosine,
    "ssl": _ssl,
}


def rounding_logit(fraction: Tensor, tau: float, rounding: Rounding = "atanh") -> Tensor:
    """Log-odds of rounding up a value `fraction` in [0, 1) above its floor, before the Gumbel noise.

    The unnormalised log-probabilities of floor and ceiling are divided by tau. Besides the paper's there are
    those of SGA+ (Perugachi-Diaz, Gansekoele, Bhulai, "Robustly overfitting latents for flexible neural image
    compression", 2024), whose probabilities at tau = 1 are linear, a squared cosine, or a scaled sigmoid.
    """
    return _LOGITS[rounding](fraction) / tau


def stochastic_gumbel_annealing(
    values: Tensor, tau: float, uniform: Tensor, rounding: Rounding = "atanh", noise: float = 1.0
) -> Tensor:
    """A Gumbel-softmax sample between floor and ceiling.

    Of two categories only the difference of the logits counts, and the difference of two Gumbel variables
    is logistic, so one uniform number per element is enough. The temperature enters twice: in the logits
    and in the relaxed sample.

    Args:
        noise: factor of the Gumbel noise; 1 is the paper's. Less of it explores less and converges sooner.
    """
    floor = values.detach().floor()
    logit = rounding_logit(values - floor, tau, rounding)
    logistic = torch.log(uniform) - torch.log1p(-uniform)
    return floor + torch.sigmoid((logit + noise * logistic) / tau)


def deterministic_annealing(values: Tensor, tau: float) -> Tensor:
    """The mean of floor and ceiling under the rounding probabilities: no noise, and tau enters once (A4)."""
    floor = values.detach().floor()
    return floor + torch.sigmoid(rounding_logit(values - floor, tau))


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

    def __call__(self, values: Tensor, step: int, uniform: Tensor | None) -> Tensor:
        """Relaxed values.

        Args:
            values: of a variable, on the grid's scale.
            step: of the refinement.
            uniform: noise in (0, 1) of the same shape; None where `wants_noise` is false.
        """
        recipe = self.recipe
        match recipe:
            case Map():  # A1: as it is, and rounded at the end
                return values
            case Ste():
                return straight_through(values)
            case DeterministicAnnealing():
                return deterministic_annealing(values, recipe.tau(step))
            case UniformNoise():  # A3, as in training
                assert uniform is not None
                return values + uniform - 0.5
            case Sga() | SgaBitsBack():
                assert uniform is not None
                tau = recipe.tau(step)
                return stochastic_gumbel_annealing(values, tau, uniform, recipe.rounding, recipe.noise)
