"""The trainable networks of both kinds, and their loss.

All randomness comes in as tensors, so that a sample's loss does not depend on which worker computes it or
when.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ncbatch.codec.model.prior import log_density
from ncbatch.codec.model.rates import LIKELIHOOD_FLOOR, SCALE_BOUND, bits_back, gaussian_bits, lower_bound
from ncbatch.codec.model.transforms import SUBPIXELS, subpixel_layer
from ncbatch.training.hyperprior import MeanScaleHyperprior
from ncbatch.training.settings import TrainingSettings

_MAX_LOG_VARIANCE = math.log(10.0)  # the paper's cap of sigma_z at sqrt(10) while training


@dataclass(frozen=True)
class Losses:
    """Means over a batch.

    Attributes:
        bpp_y: bits of y per pixel.
        bpp_z: bits of z per pixel.
        bpp_back: bits of z got back, per pixel.
        mse: on 0..255.
    """

    bpp_y: Tensor
    bpp_z: Tensor
    bpp_back: Tensor
    mse: Tensor

    @property
    def bpp(self) -> Tensor:
        """The rate in bits per pixel, net of the bits got back."""
        return self.bpp_y + self.bpp_z - self.bpp_back

    def rd_loss(self, lmbda: float) -> Tensor:
        """Bits per pixel + lmbda * MSE."""
        return self.bpp + lmbda * self.mse


@dataclass(frozen=True)
class BatchNoise:
    """The random numbers of one batch.

    Attributes:
        y: uniform in +-1/2.
        z: the same for the kind base, standard normal for the kind bits-back.
    """

    y: Tensor
    z: Tensor


class TrainableHyperprior(nn.Module):
    """A mean-scale hyperprior as it is trained.

    Of the kind bits-back, h_a gives mean and log-variance of q(z|y), one reparameterised sample of which goes
    on, and p(z) is the density of the factorized prior itself, not its convolution with a box.
    """

    def __init__(self, settings: TrainingSettings) -> None:
        super().__init__()
        self.settings = settings
        self.network = MeanScaleHyperprior(settings.n, settings.m, settings.widths)
        if settings.kind == "bits-back":
            self.network.h_a[-1] = nn.Conv2d(settings.n, 2 * settings.n, 5, stride=2, padding=2)

    def noise(self, generators: list[torch.Generator]) -> BatchNoise:
        """Fresh noise for a batch, with one generator for each sample."""
        latents = self.settings.crop // 16
        y_shape = (self.settings.m, latents, latents)
        z_shape = (self.settings.n, latents // 4, latents // 4)
        y = torch.stack([torch.rand(y_shape, generator=g) - 0.5 for g in generators])
        if self.settings.kind == "bits-back":
            return BatchNoise(y, torch.stack([torch.randn(z_shape, generator=g) for g in generators]))
        return BatchNoise(y, torch.stack([torch.rand(z_shape, generator=g) - 0.5 for g in generators]))

    def forward(self, images: Tensor, noise: BatchNoise) -> Losses:
        """The losses of a batch of images, float32[batch, 3, crop, crop] in 0..1."""
        network = self.network
        pixels = images.shape[0] * images.shape[2] * images.shape[3]
        y = network.g_a(images)
        parameters = network.h_a(y).float()
        z, bits_z, bits_z_back = self._sample_z(parameters, noise.z)
        scales, means = network.h_s(z).float().chunk(2, 1)
        centred = y.float() - means
        noisy = centred + noise.y
        bits_y = gaussian_bits(noisy, lower_bound(scales, SCALE_BOUND)).sum()
        rounds = self.settings.synthesis_latents == "rounded"
        subpixels = self._synthesis((_rounded(centred) if rounds else noisy) + means).float()
        return Losses(
            bits_y / pixels,
            bits_z / pixels,
            bits_z_back / pixels,
            F.mse_loss(subpixels, F.pixel_unshuffle(images, 2)) * 255**2,
        )

    def _synthesis(self, y: Tensor) -> Tensor:
        """The image from y, as [batch, 12, height/2, width/2]: see `subpixel_layer`."""
        last = self.network.g_s[-1]
        assert isinstance(last, nn.ConvTranspose2d) and last.bias is not None
        for layer in self.network.g_s[:-1]:
            y = layer(y)
        as_subpixels = subpixel_layer(last.weight, last.bias, SUBPIXELS)
        return F.conv2d(y, as_subpixels["6.weight"], as_subpixels["6.bias"], padding=1)

    def _sample_z(self, parameters: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A sample of z, its bits under p(z), and the bits got back."""
        if self.settings.kind == "base":
            z = parameters + noise
            mass = self.network.entropy_bottleneck.likelihood(_by_channel(z))
            bits = -torch.log2(lower_bound(mass, LIKELIHOOD_FLOOR)).sum()
            return z, bits, torch.zeros((), device=z.device)
        mean, log_variance = parameters.chunk(2, 1)
        log_variance = -lower_bound(-log_variance, -_MAX_LOG_VARIANCE)
        z = mean + (0.5 * log_variance).exp() * noise
        bits = -self.log_density(_by_channel(z)).sum() / math.log(2)
        return z, bits, bits_back(log_variance, noise).sum()

    def log_density(self, values: Tensor) -> Tensor:
        """The logarithm of the factorized density per channel, [N, 1, points]: the derivative of its
        cumulative.
        """
        bottleneck = self.network.entropy_bottleneck
        matrices = [F.softplus(matrix) for matrix in bottleneck.matrices]
        factors = [torch.tanh(factor) for factor in bottleneck.factors]
        return log_density(values, matrices, list(bottleneck.biases), factors)

    def aux_loss(self) -> Tensor:
        """The loss that moves the quantiles of p(z) to where they belong; coding centres z on the median."""
        return self.network.entropy_bottleneck.quantile_loss()

    def main_parameters(self) -> list[nn.Parameter]:
        """The parameters that the R-D loss trains: all but the quantiles."""
        return [p for name, p in self.named_parameters() if not name.endswith(".quantiles")]

    def transform_weights(self) -> list[nn.Parameter]:
        """The weights of the convolutions of g_a and g_s."""
        parameters = [*self.network.g_a.parameters(), *self.network.g_s.parameters()]
        return [parameter for parameter in parameters if parameter.ndim == 4]

    def aux_parameters(self) -> list[nn.Parameter]:
        """The quantiles of p(z), which `aux_loss` trains."""
        return [p for name, p in self.named_parameters() if name.endswith(".quantiles")]


def _rounded(values: Tensor) -> Tensor:
    """Rounded values, whose gradient goes straight through (Theis et al. 2017)."""
    return values + (values.round() - values).detach()


def _by_channel(z: Tensor) -> Tensor:
    """[batch, N, h, w] to [N, 1, points]."""
    return z.transpose(0, 1).reshape(z.shape[1], 1, -1)
