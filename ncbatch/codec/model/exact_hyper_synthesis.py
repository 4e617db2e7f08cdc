"""Hyper-synthesis on integers: the same mu and sigma on every machine.

Weights are integers below 2**15, activations between layers carry 12 fractional bits (8, as mu and sigma
have, cost 0.05 % of the rate; more, 0.003 %), and every convolution runs in float64
as a matrix product, where all partial sums stay below 2**53 and are therefore exact in any order of
summation, on any device. Scaling by powers of two, `floor` and `clamp` are exact as well.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from ncbatch.codec.errors import ModelError
from ncbatch.codec.model.extents import Extents

UNIT_BITS = 8
UNIT = 1 << UNIT_BITS
"""mu, sigma and latents are multiples of 1 / UNIT."""

FINE_STEP = UNIT // 16
"""Spacing of the grid of z under bits-back, in units of 1 / UNIT. At 0.8 of the spacing, the narrowest
posterior gives as many bits back as its density says (on a grid of 1/4 a fifth of all got lost); a finer
grid would change nothing but the bits that the images in front must lend."""

ACTIVATION_BITS = 12
"""Fractional bits between layers."""

MIN_SIGMA = 28  # 0.11 * UNIT, rounded: the lower bound that CompressAI trains with
MAX_SIGMA = (1 << 16) - 1
MAX_ACTIVATION = (1 << 23) - 1  # in units of 2**-12: 2047, where trained networks stay below 50
MAX_Z_SYMBOL = 1000  # symbol + median stays within MAX_ACTIVATION

_WEIGHT_LIMIT = (1 << 15) - 1
SLOPE_BITS = 16
LEAKY_SLOPE = round(0.01 * (1 << SLOPE_BITS))
"""Of negative values, in units of 2**-SLOPE_BITS."""
_EXACT_LIMIT = 1 << 53
UPSAMPLES = (True, True, False)
"""Layers of h_s: two transposed convolutions 5x5 of stride 2, one convolution 3x3."""


@dataclass(frozen=True)
class IntegerLayer:
    """One convolution of h_s. A checkpoint stores exactly these.

    weight: int16, as torch lays out the layer's float weight; value times 2**-shift is the real weight.
    bias: int64[out], in units of 2**-(shift + 12).
    """

    weight: Tensor
    bias: Tensor
    shift: int

    def real(self) -> tuple[Tensor, Tensor]:
        """Weight and bias as float32."""
        bias = self.bias.double() * 2.0 ** -(self.shift + ACTIVATION_BITS)
        return self.weight.float() * 2.0**-self.shift, bias.float()


def quantize_layer(weight: Tensor, bias: Tensor, *, upsamples: bool) -> IntegerLayer:
    """Rounds a float layer to integers with the finest power of two that fits 15 bits and a sign.

    Raises:
        ModelError: partial sums could leave the exact range of float64, or a weight is not finite.
    """
    largest = weight.abs().max().item()
    if not math.isfinite(largest) or not bool(bias.isfinite().all()):
        raise ModelError("h_s has weights that are not finite; the training of this checkpoint diverged")
    shift = math.floor(math.log2(_WEIGHT_LIMIT / max(largest, 2.0**-20)))
    integer = (weight.double() * 2.0**shift).round().to(torch.int16).contiguous()
    integer_bias = (bias.double() * 2.0 ** (shift + ACTIVATION_BITS)).round().to(torch.int64)
    summed = (0, 2, 3) if upsamples else (1, 2, 3)
    bound = integer.long().abs().sum(summed).max().item() * MAX_ACTIVATION + integer_bias.abs().max().item()
    if bound >= _EXACT_LIMIT:
        raise ModelError("the weights of h_s are too large for exact integer coding; train with weight decay")
    return IntegerLayer(integer, integer_bias, shift)


class ExactHyperSynthesis:
    """h_s for coding. Immutable; holds float64 copies of the integer weights on one device."""

    def __init__(self, layers: list[IntegerLayer], device: torch.device) -> None:
        self.device = device
        self._layers = [
            (layer.weight.to(device, torch.float64), layer.bias.to(device, torch.float64), layer.shift)
            for layer in layers
        ]

    def __call__(self, z_hat: Tensor, extents: Extents | None = None) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of every latent.

        Args:
            z_hat: int32[batch, N, h, w] in units of 1 / UNIT.
            extents: of the images, where they differ in size; beyond their borders the result is anything.

        Returns:
            mu and sigma, int32[batch, M, 4 h, 4 w] each, in units of 1 / UNIT.
        """
        x = z_hat.to(torch.float64) * 2.0 ** (ACTIVATION_BITS - UNIT_BITS)
        x = x.clamp(-MAX_ACTIVATION, MAX_ACTIVATION)
        for index, (_, _, shift) in enumerate(self._layers):
            if index:
                x = torch.where(x < 0, (x * (LEAKY_SLOPE * 2.0**-SLOPE_BITS)).floor(), x)
            if extents is not None:
                x = extents.clear(x)
            x = self.sums(index, x)
            x = (x * 2.0**-shift + 0.5).floor().clamp(-MAX_ACTIVATION, MAX_ACTIVATION)
        x = (x * 2.0 ** (UNIT_BITS - ACTIVATION_BITS) + 0.5).floor()
        scales, means = x.to(torch.int32).chunk(2, 1)  # CompressAI's order: scales first
        return means, scales.clamp(MIN_SIGMA, MAX_SIGMA)

    def sums(self, index: int, x: Tensor) -> Tensor:
        """What the convolution of one layer adds up to, before it is scaled and rounded.

        Args:
            index: of the layer.
            x: integers up to MAX_ACTIVATION, float64[batch, in, h, w].

        Returns:
            integers below 2**53, float64[batch, out, h, w], twice as high and wide where the layer upsamples.
        """
        weight, bias, _ = self._layers[index]
        with torch.no_grad():
            if self.device.type != "cpu":
                return sums_by_products(x, weight, bias, upsamples=UPSAMPLES[index])
            if UPSAMPLES[index]:
                return F.conv_transpose2d(x, weight, bias, stride=2, padding=2, output_padding=1)
            return F.conv2d(x, weight, bias, padding=1)


def sums_by_products(x: Tensor, weight: Tensor, bias: Tensor, *, upsamples: bool) -> Tensor:
    """A layer's convolution as a matrix product, whatever a library would make of a convolution.

    cuDNN may choose FFT or Winograd, which are not exact, and can only be switched off for a whole process.

    Args:
        x: as of `ExactHyperSynthesis.sums`, which returns the same.
        weight: float64, as torch lays out the layer's weight.
        bias: float64[out].
        upsamples: whether the layer is a transposed convolution 5x5 of stride 2, not one 3x3.
    """
    batch, _, height, width = x.shape
    if upsamples:
        taps = weight.flatten(1).T @ x.flatten(2)  # each input's share in 5x5 outputs
        size = (2 * height, 2 * width)
        summed = F.fold(taps, size, kernel_size=5, stride=2, padding=2)
        return summed + bias.view(-1, 1, 1)
    neighbours = F.unfold(x, kernel_size=3, padding=1)
    return (weight.flatten(1) @ neighbours).view(batch, -1, height, width) + bias.view(-1, 1, 1)


def check_layers(layers: list[IntegerLayer], n: int, m: int) -> None:
    """Refuses integer layers that do not form an h_s from N to 2 M channels."""
    channels = []
    for layer, upsamples in zip(layers, UPSAMPLES, strict=True):
        inputs, outputs = (0, 1) if upsamples else (1, 0)
        size = 5 if upsamples else 3
        if layer.weight.ndim != 4 or tuple(layer.weight.shape[2:]) != (size, size):
            raise ModelError("the checkpoint's integer h_s has kernels of the wrong size; export it again")
        if tuple(layer.bias.shape) != (layer.weight.shape[outputs],):
            raise ModelError("the checkpoint's integer h_s has biases of the wrong size; export it again")
        channels.append((layer.weight.shape[inputs], layer.weight.shape[outputs]))
    chained = all(a[1] == b[0] for a, b in pairwise(channels))
    if not chained or channels[0][0] != n or channels[-1][1] != 2 * m:
        raise ModelError(
            f"the checkpoint's integer h_s does not lead from {n} to {2 * m} channels; export it again"
        )
