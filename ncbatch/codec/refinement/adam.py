"""Adam on images that share a tensor, each with a step count and a learning rate of its own.

PyTorch's knows one count and one rate for a tensor. Images that join others in the middle need their own, or
what an image becomes would depend on when it joined.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_EPSILON = 1e-8

Factors = tuple[float, float]
"""Of one image at one step; see `PerImageAdam.factors`."""


class PerImageAdam:
    """Kingma and Ba's update, written so that all that differs between images is in two numbers for each.

    Args:
        values: what is optimised, float32[images, elements]; changed in place.
        beta1: decay rate of the gradient's mean.
        beta2: decay rate of the squared gradient's mean.

    Attributes:
        mean: of the gradient; float32[images, elements].
        square: mean of the squared gradient; float32[images, elements].
    """

    def __init__(self, values: Tensor, beta1: float, beta2: float) -> None:
        self._values, self._beta1, self._beta2 = values, beta1, beta2
        self.mean, self.square = torch.zeros_like(values), torch.zeros_like(values)

    def factors(self, taken: int, learning_rate: float) -> Factors:
        """What `step` needs of an image that has taken so many steps: the inverse of its learning rate with
        both corrections of the bias, and epsilon in its scale.
        """
        correction1, correction2 = 1 - self._beta1 ** (taken + 1), 1 - self._beta2 ** (taken + 1)
        inverse_rate = correction1 / learning_rate
        return inverse_rate / math.sqrt(correction2), inverse_rate * _EPSILON

    @torch.no_grad()
    def step(self, gradient: Tensor, inverse_rate: Tensor, epsilon: Tensor) -> None:
        """Takes a step.

        Args:
            gradient: float32[images, elements].
            inverse_rate: the first of each image's factors, float32[images, 1].
            epsilon: the second.
        """
        self.mean.lerp_(gradient, 1 - self._beta1)
        self.square.mul_(self._beta2).addcmul_(gradient, gradient, value=1 - self._beta2)
        divisor = self.square.sqrt()
        torch.addcmul(epsilon, divisor, inverse_rate, out=divisor)
        self._values.addcdiv_(self.mean, divisor, value=-1)
