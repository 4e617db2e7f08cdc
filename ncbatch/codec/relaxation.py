"""Relaxations: how a real proxy variable becomes a (nearly) rounded one at each step."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_CLIP = 1e-5  # keeps atanh finite, as in the authors' code


@dataclass(frozen=True)
class Annealing:
    """tau(t) = min(tau0, tau0 exp(-rate (t - plateau))), Yang et al. 2020, section 3.2."""

    tau0: float
    rate: float
    plateau: float

    @classmethod
    def scaled_to(cls, steps: int) -> Annealing:
        """The paper's schedule (tau0 0.5, rate 1e-3, plateau 700 of 2000 steps), scaled to other lengths."""
        return cls(tau0=0.5, rate=2.0 / steps, plateau=0.35 * steps)

    def __call__(self, step: int) -> float:
        return min(self.tau0, self.tau0 * math.exp(-self.rate * (step - self.plateau)))


def rounding_logit(fraction: Tensor, tau: float) -> Tensor:
    """Log-odds of rounding up a value `fraction` in [0, 1) above its floor, before the Gumbel noise.

    The paper's unnormalised log-probabilities are -atanh(distance) / tau for floor and ceiling.
    """
    up = (1 - fraction).clamp_max(1 - _CLIP)
    down = fraction.clamp_max(1 - _CLIP)
    return (torch.atanh(down) - torch.atanh(up)) / tau


def stochastic_gumbel_annealing(values: Tensor, tau: float, uniform: Tensor) -> Tensor:
    """A Gumbel-softmax sample between floor and ceiling, differentiable in the values.

    Of two categories only the difference of the logits counts, and the difference of two Gumbel variables
    is logistic, so one uniform number per element is enough. The temperature enters twice: in the logits
    and in the relaxed sample.

    Args:
        values: proxy variables on the grid's scale, any shape.
        tau: temperature.
        uniform: in (0, 1), same shape.
    """
    floor = values.detach().floor()
    logit = rounding_logit(values - floor, tau)
    logistic = torch.log(uniform) - torch.log1p(-uniform)
    return floor + torch.sigmoid((logit + logistic) / tau)
