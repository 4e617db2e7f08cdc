"""Differentiable information content of mean-centred latents under Gaussians on the integers."""

import math
from typing import Any

import torch
from torch import Tensor

LIKELIHOOD_FLOOR = 1e-9
"""CompressAI's lower bound of a likelihood: no symbol costs more than 30 bits."""

SCALE_BOUND = 0.11
"""Lower bound of sigma, as CompressAI trains with."""

_SQRT_HALF = math.sqrt(0.5)
_DENSITY = 1 / math.sqrt(2 * math.pi)


class _LowerBound(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bound: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.bound = bound
        return x.clamp_min(bound)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        (grad,) = grads
        return torch.where((x >= ctx.bound) | (grad < 0), grad, 0.0), None


def lower_bound(x: Tensor, bound: float) -> Tensor:
    """max(x, bound) whose gradient still pulls values below the bound upwards (CompressAI's LowerBound)."""
    return _LowerBound.apply(x, bound)


class _GaussianBits(torch.autograd.Function):
    """One node in the place of about fifteen: the loop spends its time in convolutions, not here."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, sigma: Tensor) -> Tensor:
        magnitude = values.abs()
        inverse = sigma.reciprocal()
        upper = (0.5 - magnitude) * inverse
        lower = (-0.5 - magnitude) * inverse
        mass = 0.5 * (torch.erfc(upper * -_SQRT_HALF) - torch.erfc(lower * -_SQRT_HALF))
        mass = mass.clamp_min_(LIKELIHOOD_FLOOR)
        ctx.save_for_backward(values, inverse, upper, lower, mass)
        return mass.log2().neg_()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        values, inverse, upper, lower, mass = ctx.saved_tensors
        (grad,) = grads
        density_upper = (upper * upper * -0.5).exp_() * _DENSITY
        density_lower = (lower * lower * -0.5).exp_() * _DENSITY
        scale = grad * inverse / (mass * math.log(2))
        wrt_values = (density_upper - density_lower) * values.sign() * scale
        wrt_sigma = (density_upper * upper - density_lower * lower) * scale
        return wrt_values, wrt_sigma


def gaussian_bits(values: Tensor, sigma: Tensor) -> Tensor:
    """-log2 of the mass of N(0, sigma^2) in [v - 1/2, v + 1/2], elementwise, at most 30 bits each.

    Args:
        values: mean-centred latents, float32, any shape.
        sigma: positive standard deviations, same shape.
    """
    return _GaussianBits.apply(values, sigma)


def bits_back(log_variance: Tensor, noise: Tensor) -> Tensor:
    """-log2 of the density of N(mean, exp(log_variance)), elementwise.

    Args:
        log_variance: any shape.
        noise: how many standard deviations the value lies off the mean, same shape.
    """
    return 0.5 / math.log(2) * (noise.square() + log_variance + math.log(2 * math.pi))
