"""The modules that are trained: a mean-scale hyperprior (Minnen et al. 2018) with GDN and a factorized p(z).

Parameters have the names, shapes, order and initial distribution of CompressAI's `MeanScaleHyperprior`, so
that weights and optimizer states go both ways; the state dict holds nothing else. How y is quantized and what
it costs is up to the caller.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ncbatch.codec.model.info import Widths
from ncbatch.codec.model.rates import lower_bound

_OFFSET = 2.0**-18  # GDN's parameters are stored as sqrt(value + offset^2), which keeps gradients alive at 0
_BETA_MIN = 1e-6
_WIDTHS = (1, 3, 3, 3, 3, 1)  # of the layers of p(z)'s cumulative
_INITIAL_WIDTH = 10.0  # of p(z)
_TAIL_MASS = 1e-9  # outside the outer quantiles

_CONSTANTS = (
    "._offset", "._quantized_cdf", "._cdf_length", ".pedestal", ".bound", ".target", ".scale_table",
    ".scale_bound",
)  # fmt: skip


def without_constants(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """The parameters in a state dict of CompressAI's module, which also holds constants and tables."""
    return {name: tensor for name, tensor in state_dict.items() if not name.endswith(_CONSTANTS)}


class GDN(nn.Module):
    """Generalized divisive normalization (Balle et al. 2016): x / sqrt(beta + gamma x^2).

    Args:
        channels: of x.
        inverse: multiplies by the root instead.
    """

    nothing = _OFFSET
    """How a gamma of 0 is stored."""

    def __init__(self, channels: int, *, inverse: bool = False) -> None:
        super().__init__()
        self.inverse = inverse
        self.beta = nn.Parameter(torch.sqrt(torch.ones(channels) + _OFFSET**2))
        self.gamma = nn.Parameter(torch.sqrt(0.1 * torch.eye(channels) + _OFFSET**2))

    def forward(self, x: Tensor) -> Tensor:
        """x [batch, channels, height, width] to the same shape."""
        beta, gamma = _non_negative(self.beta, _BETA_MIN), _non_negative(self.gamma, 0.0)
        y: Tensor = _Normalization.apply(x, gamma, beta, self.inverse)
        return y


class _Normalization(torch.autograd.Function):
    """GDN of x, with half of the passes over x that autograd makes: the rest of a step is convolutions."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor, inverse: bool) -> Tensor:
        weight = gamma.to(x.dtype)[:, :, None, None]
        square = x * x
        norm = F.conv2d(square, weight, beta.to(x.dtype))
        factor = norm.sqrt() if inverse else norm.rsqrt()
        ctx.save_for_backward(x, square, norm, factor, weight)
        ctx.inverse, ctx.stored = inverse, gamma.dtype
        return x * factor

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, square, norm, factor, weight = ctx.saved_tensors
        (grad,) = grads
        # y = x n^(s/2) with n = beta + gamma x^2 and s = 1 or -1: dL/dn = s/2 g x n^(s/2) / n
        wrt_norm = (grad * x).mul_(factor).div_(norm)
        half = 0.5 if ctx.inverse else -0.5
        wrt_square, wrt_weight, wrt_beta = torch.ops.aten.convolution_backward(
            wrt_norm, square, weight, [weight.shape[0]], [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [True] * 3
        )
        wrt_x = torch.mul(grad, factor, out=wrt_norm).addcmul_(x, wrt_square, value=2 * half)
        return wrt_x, wrt_weight[:, :, 0, 0].to(ctx.stored) * half, wrt_beta.to(ctx.stored) * half, None


def _non_negative(stored: Tensor, minimum: float) -> Tensor:
    """The value of a stored parameter, of which one at its minimum still gets a gradient that raises it."""
    return lower_bound(stored, math.sqrt(minimum + _OFFSET**2)) ** 2 - _OFFSET**2


class FactorizedDensity(nn.Module):
    """p(z), one density per channel, whose cumulative is a monotone network (Balle et al. 2018, appendix
    6.1).

    `quantiles`, float32[channels, 1, 3], follow p(z) by a loss of their own: the lower tail, the median, the
    upper tail.

    Args:
        channels: of z.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.quantiles = nn.Parameter(
            torch.tensor([-_INITIAL_WIDTH, 0.0, _INITIAL_WIDTH]).repeat(channels, 1, 1)
        )
        self.matrices, self.biases, self.factors = nn.ParameterList(), nn.ParameterList(), nn.ParameterList()
        layers = len(_WIDTHS) - 1
        for i, (before, width) in enumerate(pairwise(_WIDTHS)):
            slope = math.log(math.expm1(1 / _INITIAL_WIDTH ** (1 / layers) / width))
            self.matrices.append(nn.Parameter(torch.full((channels, width, before), slope)))
            self.biases.append(nn.Parameter(torch.empty(channels, width, 1).uniform_(-0.5, 0.5)))
            if i < layers - 1:
                self.factors.append(nn.Parameter(torch.zeros(channels, width, 1)))

    def logits(self, values: Tensor, *, frozen: bool = False) -> Tensor:
        """Logits of the cumulative distribution; [channels, 1, points] to the same shape.

        Args:
            frozen: gradients reach the values only.
        """

        def weight(parameter: Tensor) -> Tensor:
            return parameter.detach() if frozen else parameter

        logits = values
        for i, (matrix, bias) in enumerate(zip(self.matrices, self.biases, strict=True)):
            logits = torch.matmul(F.softplus(weight(matrix)), logits) + weight(bias)
            if i < len(self.factors):
                logits = logits + torch.tanh(weight(self.factors[i])) * torch.tanh(logits)
        return logits

    def likelihood(self, values: Tensor) -> Tensor:
        """Mass of [v - 1/2, v + 1/2], [channels, 1, points] to the same shape."""
        lower, upper = self.logits(values - 0.5), self.logits(values + 0.5)
        return torch.sigmoid(upper) - torch.sigmoid(lower)

    def quantile_loss(self) -> Tensor:
        """How far the quantiles are off, in logits. The density itself gets no gradient from it."""
        tail = math.log(2 / _TAIL_MASS - 1)
        target = self.quantiles.new_tensor([-tail, 0.0, tail])
        return (self.logits(self.quantiles, frozen=True) - target).abs().sum()


class MeanScaleHyperprior(nn.Module):
    """The four transforms and p(z).

    g_a leads from the image [batch, 3, height, width] to y [batch, m, height/16, width/16], and g_s back. h_a
    leads from y to z [batch, n, height/64, width/64], and h_s from z to scales and means, [batch, 2 m,
    height/16, width/16].

    Args:
        n: channels of the transforms and of z.
        m: channels of y.
        widths: channels within g_a and g_s, from the image inwards, where they are not all `n`. CompressAI
            has no such module.
    """

    def __init__(self, n: int, m: int, widths: Widths | None = None) -> None:
        super().__init__()
        half, quarter, eighth = widths or (n, n, n)  # of the image's resolution
        self.entropy_bottleneck = FactorizedDensity(n)
        self.g_a = nn.Sequential(
            _down(3, half), GDN(half),
            _down(half, quarter), GDN(quarter),
            _down(quarter, eighth), GDN(eighth),
            _down(eighth, m),
        )  # fmt: skip
        self.g_s = nn.Sequential(
            _up(m, eighth), GDN(eighth, inverse=True),
            _up(eighth, quarter), GDN(quarter, inverse=True),
            _up(quarter, half), GDN(half, inverse=True),
            _up(half, 3),
        )  # fmt: skip
        self.h_a = nn.Sequential(
            nn.Conv2d(m, n, 3, padding=1), nn.LeakyReLU(inplace=True),
            _down(n, n), nn.LeakyReLU(inplace=True),
            _down(n, n),
        )  # fmt: skip
        self.h_s = nn.Sequential(
            _up(n, m), nn.LeakyReLU(inplace=True),
            _up(m, m * 3 // 2), nn.LeakyReLU(inplace=True),
            nn.Conv2d(m * 3 // 2, m * 2, 3, padding=1),
        )  # fmt: skip


def _down(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 5, stride=2, padding=2)


def _up(inputs: int, outputs: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(inputs, outputs, 5, stride=2, padding=2, output_padding=1)
