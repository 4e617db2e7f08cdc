"""Black-box variational inference of q(z|y_hat), which the decoder of a bits-back image repeats.

Starting from h_a(y_hat), mean and log-variance of every hyper-latent are optimised for the rate alone: bits
of y_hat given a sample of z, bits of z, less the bits got back. Everything runs in float64 with hashed noise,
so two machines differ by little more than the last bits (see `fixed_posterior` for what becomes of those).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ncbatch.codec.model.hyperprior import Model
from ncbatch.codec.model.rates import SCALE_BOUND, bits_back, gaussian_bits, lower_bound
from ncbatch.codec.refinement.noise import ImageNoise, normal

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8
_NOISE = ImageNoise(0, b"bbvi")


@dataclass(frozen=True)
class BbviSettings:
    """How q(z|y_hat) is inferred. These are part of the bitstream, since the decoder repeats the inference.

    Attributes:
        steps: steps of Adam; with none, the posterior is h_a(y_hat) as it is.
        learning_rate: Adam's.
    """

    steps: int
    learning_rate: float


def infer(
    model: Model, y_hat: Tensor, settings: BbviSettings, disturbance: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Mean and log-variance of q(z|y_hat).

    Args:
        y_hat: int32[batch, M, h, w]; every image is inferred as it would be alone, but for the last bits.
        disturbance: relative change of the start, such as another machine's rounding makes all the way.

    Returns:
        float64[batch, N, h/4, w/4] each, in units of z.
    """
    y = y_hat.to(torch.float64)
    with torch.no_grad():
        parameters = model.precise_hyper_analysis(y).contiguous() * (1 + disturbance)
    first, second = torch.zeros_like(parameters), torch.zeros_like(parameters)
    shape = (1, model.info.n, *parameters.shape[2:])  # the noise is the same for every image
    counter = torch.arange(math.prod(shape), dtype=torch.int32, device=y.device).view(shape)
    for step in range(settings.steps):
        noise = normal(_NOISE.uniform("z", step, counter).double())
        gradient = rate_gradient(model, y, parameters, noise)
        # Adam, written out: another version of a library must not change what a file decodes to.
        first = _BETA1 * first + (1 - _BETA1) * gradient
        second = _BETA2 * second + (1 - _BETA2) * gradient * gradient
        mean = first / (1 - _BETA1 ** (step + 1))
        deviation = (second / (1 - _BETA2 ** (step + 1))).sqrt()
        parameters = parameters - settings.learning_rate * mean / (deviation + _EPSILON)
    mean, log_variance = parameters.chunk(2, 1)
    return mean, log_variance


def rate_gradient(model: Model, y: Tensor, parameters: Tensor, noise: Tensor) -> Tensor:
    """Gradient of the net rate, in bits, at one sample of z; float64 of the parameters' shape.

    Args:
        y: the rounded latents; float64[batch, M, h, w] with integer values.
        parameters: means and log-variances of q(z|y_hat); float64[batch, 2 N, h/4, w/4].
        noise: standard normal numbers that make the sample; float64[1, N, h/4, w/4].
    """
    leaf = parameters.detach().requires_grad_()
    net_rate(model, y, leaf, noise).backward()
    assert leaf.grad is not None
    return leaf.grad.contiguous()


def net_rate(model: Model, y: Tensor, parameters: Tensor, noise: Tensor) -> Tensor:
    """Bits of y and of a sample of z, less the bits got back for it, of all images; a scalar tensor.

    Equation 6 of Yang et al. 2020, in bits. Arguments as of `rate_gradient`.
    """
    mean, log_variance = parameters.chunk(2, 1)
    z = mean + (0.5 * log_variance).exp() * noise
    scales, means = model.precise_hyper_synthesis(z).chunk(2, 1)
    bits_y = gaussian_bits(y - means, lower_bound(scales, SCALE_BOUND)).sum()
    bits_z = model.precise_prior.density_bits(z).sum()
    return bits_y + bits_z - bits_back(log_variance, noise).sum()
