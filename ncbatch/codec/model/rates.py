"""Differentiable information content of mean-centred latents under Gaussians on the integers."""

import functools
import math
from typing import Any

import torch
from torch import Tensor

LIKELIHOOD_FLOOR = 1e-9
"""CompressAI's lower bound of a likelihood: no symbol costs more than 30 bits."""

SCALE_BOUND = 0.11
"""Lower bound of sigma, as CompressAI trains with."""

_SQRT_HALF, _SQRT_2 = math.sqrt(0.5), math.sqrt(2)
_LOG_FACTOR = math.log(2 / (math.log(2) * math.sqrt(math.pi)))
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


@torch.no_grad()
def gaussian_gradients(values: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of `gaussian_bits(values, lower_bound(scales, SCALE_BOUND)).sum()`, and nothing else.

    Nothing comes after the sum, so they need no graph, and buffers are used again: that is half of autograd's
    operations.

    Args:
        values: mean-centred latents; float[batch, channels, height, width], best channels-last.
        scales: standard deviations, not yet bounded, same shape.

    Returns:
        those with respect to the values and to the scales.
    """
    inverse = scales.clamp_min(SCALE_BOUND).mul_(_SQRT_2).reciprocal_()
    # The bounds of the mass, the one nearer to zero first, in sigma * sqrt(2); channels-last.
    batch, channels, height, width = values.shape
    bounds = values.new_empty(2, batch, height, width, channels).permute(0, 1, 4, 2, 3)
    torch.mul(values.abs() - 0.5, inverse, out=bounds[0])
    torch.add(bounds[0], inverse, out=bounds[1])
    tails = torch.erfc(bounds)
    twice_the_mass = (tails[0] - tails[1]).clamp_min_(2 * LIKELIHOOD_FLOOR)
    # d erfc(x) / dx = -2 / sqrt(pi) exp(-x^2), dx / dsigma = -x / sigma; the factor goes into the exponent.
    slopes = torch.rsub(bounds * bounds, _LOG_FACTOR).exp_()
    inverse.div_(twice_the_mass)
    wrt_values = (slopes[0] - slopes[1]).copysign_(values).mul_(inverse)
    slopes.mul_(bounds)
    difference = slopes[1] - slopes[0]
    wrt_sigma = torch.addcmul(_zero(values.device), difference, inverse, value=_SQRT_2, out=difference)
    # As of `lower_bound`: below the bound only what raises it.
    unbounded = torch.ops.aten.threshold_backward(wrt_sigma, scales, SCALE_BOUND)
    return wrt_values, torch.minimum(wrt_sigma, unbounded)


@functools.cache
def _zero(device: torch.device) -> Tensor:
    """To add products to: then a factor takes no operation of its own."""
    return torch.zeros((), device=device)


def bits_back(log_variance: Tensor, noise: Tensor) -> Tensor:
    """-log2 of the density of N(mean, exp(log_variance)), elementwise.

    Args:
        log_variance: any shape.
        noise: how many standard deviations the value lies off the mean, same shape.
    """
    return 0.5 / math.log(2) * (noise.square() + log_variance + math.log(2 * math.pi))
