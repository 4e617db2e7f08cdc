"""The four transforms with frozen weights, laid out for speed.

They compute what CompressAI's `MeanScaleHyperprior` computes. Since the weights never change while an image
is refined, what GDN derives from its weights is computed once, only inputs get gradients, and activations
are channels-last (and bfloat16, where the caller asks for it).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ncbatch.codec.model.extents import Extents
from ncbatch.codec.model.fused_gdn import FusedInverseGDN, usable

Layer = Callable[[Tensor], Tensor]

SUBPIXELS = 12
"""Of a reconstruction at half the resolution: 3 colours of 2 x 2 pixels."""

_GDN_OFFSET = 2.0**-18  # CompressAI's reparametrization: stored = sqrt(value + offset^2)
_BETA_MIN = 1e-6


class InverseGDN(torch.autograd.Function):
    """x * sqrt(beta + gamma x^2), with half of autograd's activations kept, and buffers used again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor, gamma_transposed: Tensor) -> Tensor:
        """The value."""
        square = x * x
        root = F.conv2d(square, gamma, beta).sqrt_()
        ctx.save_for_backward(x, root, gamma_transposed)
        return torch.mul(x, root, out=square)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient with respect to x."""
        x, root, gamma_transposed = ctx.saved_tensors
        (grad,) = grads
        # d(x_i r_i)/dx_j = r_i [i = j] + x_i gamma_ij x_j / r_i
        buffer = (grad * x).div_(root)
        through_norm = F.conv2d(buffer, gamma_transposed)
        return torch.mul(grad, root, out=buffer).addcmul_(x, through_norm), None, None, None


def _reparametrized(stored: Tensor, minimum: float) -> Tensor:
    bound = (minimum + _GDN_OFFSET**2) ** 0.5
    return stored.double().clamp_min(bound).square() - _GDN_OFFSET**2


def _frozen(weight: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    weight = weight.to(device, dtype)
    return weight.contiguous(memory_format=torch.channels_last) if weight.ndim == 4 else weight


class Transform:
    """A frozen chain of layers, [batch, channels, height, width] to the same.

    Args:
        weights: one section of a checkpoint, by CompressAI's names ("0.weight", "1.beta", ...).
        kind: "g_a", "h_a", "g_s" or "h_s".
        dtype: of the computation; inputs are converted to it, outputs stay in it.
        device: of the computation.
        subpixels: for g_s: leave the image as [batch, subpixels, height/2, width/2], of whose first 12
            channels `pixel_shuffle` makes the image; the others are zero. The last layer is then an ordinary
            convolution, twice as fast with its backward pass as the transposed one to three channels, and the
            distortion does not depend on how pixels are arranged. 0: the image itself.
    """

    def __init__(
        self,
        weights: dict[str, Tensor],
        kind: str,
        dtype: torch.dtype,
        device: torch.device,
        *,
        subpixels: int = 0,
    ) -> None:
        self.dtype, self.device = dtype, device
        if subpixels:
            weights = weights | subpixel_layer(weights["6.weight"], weights["6.bias"], subpixels)
        # What is reported stays with the plain operations, wherever it is computed.
        self._layers = _build(weights, kind, dtype, device, fused=bool(subpixels) and device.type == "cuda")

    def __call__(self, x: Tensor, extents: Extents | None = None) -> Tensor:
        """Applies the layers, in order.

        Args:
            x: [batch, channels, height, width].
            extents: of the images of a synthesis, where they differ in size. What lies beyond an image's
                border is zero for every convolution; in the output it may be anything.
        """
        x = x.to(self.device, self.dtype, memory_format=torch.channels_last)
        if extents is None:
            for layer in self._layers:
                x = layer(x)
            return x
        x = extents.clear(x)
        for index, layer in enumerate(self._layers):
            x = layer(x)
            # Convolutions and the layers between them alternate, and those leave zeros as they are.
            if index % 2 == 0 and index + 1 < len(self._layers):
                x = extents.clear(x)
        return x


def subpixel_layer(weight: Tensor, bias: Tensor, channels: int) -> dict[str, Tensor]:
    """The last layer of g_s, a 5x5 transposed convolution of stride 2, as a 3x3 convolution to subpixels, of
    so many channels: there are twelve, and zero in any others.

    Output pixel (2 i + a, 2 j + b) of the transposed convolution takes tap (a + 4 - 2 d, b + 4 - 2 e) of the
    input at (i + d - 1, j + e - 1); taps beyond the 5x5 are zero.
    """
    padded = F.pad(weight, (0, 1, 0, 1))
    taps = [[[a + 4 - 2 * d for d in range(3)] for a in range(2)]] * 2
    rows, columns = (torch.tensor(t).clamp_max(5) for t in taps)
    # [in, out, a, d, b, e] to [out, a, b, in, d, e]
    picked = padded[:, :, rows][..., columns].permute(1, 2, 4, 0, 3, 5)
    more = channels - SUBPIXELS
    return {
        "6.weight": F.pad(picked.reshape(-1, weight.shape[0], 3, 3), (0, 0) * 3 + (0, more)).contiguous(),
        "6.bias": F.pad(bias.repeat_interleave(4), (0, more)),
    }


def _build(
    weights: dict[str, Tensor], kind: str, dtype: torch.dtype, device: torch.device, *, fused: bool
) -> Sequence[Layer]:
    upsamples, hyper = kind.endswith("_s"), kind.startswith("h_")
    count = 1 + max(int(name.split(".")[0]) for name in weights)
    layers: list[Layer] = []
    for i in range(count):
        if f"{i}.weight" in weights:
            weight = _frozen(weights[f"{i}.weight"], dtype, device)
            bias = _frozen(weights[f"{i}.bias"], dtype, device)
            layers.append(_convolution(weight, bias, upsamples))
        elif hyper:
            layers.append(lambda x: F.leaky_relu(x, 0.01, inplace=not x.requires_grad))
        else:
            gdn = GDN.of(weights[f"{i}.gamma"], weights[f"{i}.beta"], dtype, device)
            layers.append(gdn.inverse(fused=fused) if upsamples else gdn.forward())
    return layers


def _convolution(weight: Tensor, bias: Tensor, upsamples: bool) -> Layer:
    kernel = weight.shape[-1]
    if kernel == 3:  # the one layer at each end of the hyper transforms that keeps the size
        return lambda x: F.conv2d(x, weight, bias, padding=1)
    if upsamples:
        return lambda x: F.conv_transpose2d(x, weight, bias, stride=2, padding=2, output_padding=1)
    return lambda x: F.conv2d(x, weight, bias, stride=2, padding=2)


@dataclass(frozen=True)
class GDN:
    """What a layer of generalised divisive normalisation derives from its weights, once.

    Attributes:
        gamma: [channels, channels, 1, 1].
        beta: [channels].
        gamma_transposed: for the gradient.
    """

    gamma: Tensor
    beta: Tensor
    gamma_transposed: Tensor

    @staticmethod
    def of(stored_gamma: Tensor, stored_beta: Tensor, dtype: torch.dtype, device: torch.device) -> GDN:
        """From a checkpoint's weights."""
        square = _reparametrized(stored_gamma, 0.0)[:, :, None, None]
        beta = _frozen(_reparametrized(stored_beta, _BETA_MIN), dtype, device)
        return GDN(_frozen(square, dtype, device), beta, _frozen(square.transpose(0, 1), dtype, device))

    def forward(self) -> Layer:
        """x / sqrt(beta + gamma x^2)."""
        return lambda x: x * F.conv2d(x * x, self.gamma, self.beta).rsqrt_()

    def inverse(self, *, fused: bool = False) -> Layer:
        """x * sqrt(beta + gamma x^2); fused: by `fused_gdn`, where it works."""
        weights = (self.gamma, self.beta, self.gamma_transposed)
        if fused and usable(InverseGDN, weights):
            return lambda x: FusedInverseGDN.apply(x, *weights)
        return lambda x: InverseGDN.apply(x, *weights)
