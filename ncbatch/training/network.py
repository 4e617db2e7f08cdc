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

from ncbatch.codec.model.checkpoint import Checkpoint
from ncbatch.codec.model.info import ModelInfo
from ncbatch.codec.model.prior import log_density, quantile
from ncbatch.codec.model.rates import LIKELIHOOD_FLOOR, SCALE_BOUND, bits_back, gaussian_bits, lower_bound
from ncbatch.errors import NcbatchError
from ncbatch.training.hyperprior import MeanScaleHyperprior
from ncbatch.training.settings import TrainingSettings

_MAX_LOG_VARIANCE = math.log(10.0)  # the paper's cap of sigma_z at sqrt(10) while training
_BOX_VARIANCE = 1 / 12  # of uniform noise


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
        centred = y.float() + noise.y - means
        bits_y = gaussian_bits(centred, lower_bound(scales, SCALE_BOUND)).sum()
        reconstruction = network.g_s(centred + means).float()
        return Losses(
            bits_y / pixels,
            bits_z / pixels,
            bits_z_back / pixels,
            F.mse_loss(reconstruction, images) * 255**2,
        )

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

    def aux_parameters(self) -> list[nn.Parameter]:
        """The quantiles of p(z), which `aux_loss` trains."""
        return [p for name, p in self.named_parameters() if name.endswith(".quantiles")]


def _by_channel(z: Tensor) -> Tensor:
    """[batch, N, h, w] to [N, 1, points]."""
    return z.transpose(0, 1).reshape(z.shape[1], 1, -1)


# Tensors whose size depends on M, with the axis of their inputs that grows with it.
_GROWING: dict[str, int | None] = {
    "g_a.6.weight": None, "g_a.6.bias": None, "h_a.0.weight": 1, "g_s.0.weight": 0, "h_s.0.weight": None,
    "h_s.0.bias": None, "h_s.2.weight": 0, "h_s.2.bias": None, "h_s.4.weight": 1, "h_s.4.bias": None,
}  # fmt: skip


def _widened(weights: dict[str, Tensor], fresh: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights for more channels of y, under which the old latents and the image from them stay what they
    were.

    New channels keep their fresh weights where they are computed, and nothing old depends on them yet.
    """
    widened = dict(weights)
    for name, inputs in _GROWING.items():
        old, new = weights[name], fresh[name].clone()
        if name.startswith("h_s.4"):  # scales and means, one after the other
            old, new = (tensor.reshape(2, -1, *tensor.shape[1:]) for tensor in (old, new))
            inputs = None if inputs is None else inputs + 1
        corner = [slice(0, size) for size in old.shape]
        if inputs is not None:
            from_new = list(corner)
            from_new[inputs] = slice(old.shape[inputs], None)
            new[tuple(from_new)] = 0
        new[tuple(corner)] = old
        widened[name] = new.reshape(fresh[name].shape)
    return widened


def _broadened(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """p(z) of a base model, stretched about each channel's median to the width that it has in rates.

    There it is convolved with a box. The density alone may be a spike, under which a posterior as wide as the
    box would be expensive, above all in channels that carry nothing.
    """
    prefix = "entropy_bottleneck."
    prior = {name.removeprefix(prefix): t for name, t in weights.items() if name.startswith(prefix)}
    below, median, above = (quantile(prior, probability) for probability in (0.16, 0.5, 0.84))
    deviation = (above - below) / 2
    slower = (deviation / (deviation.square() + _BOX_VARIANCE).sqrt()).view(-1, 1, 1)
    slope = F.softplus(prior["matrices.0"].double())
    matrix = torch.log(torch.expm1(slope * slower))
    bias = prior["biases.0"] + slope * (1 - slower) * median.view(-1, 1, 1)
    return {f"{prefix}matrices.0": matrix.float(), f"{prefix}biases.0": bias.float()}


def _shape(model: ModelInfo | TrainingSettings) -> str:
    widths = "" if model.widths is None else f", widths {','.join(map(str, model.widths))}"
    return f"N = {model.n}, M = {model.m}{widths}"


def warm_start(model: TrainableHyperprior, checkpoint: Checkpoint) -> None:
    """Takes over the weights of a trained neighbour: of another rate or, for bits-back, of the kind base.

    A model with more channels of y keeps its own weights for them. A posterior that no base model has starts
    with the variance of the uniform noise that it replaces, and p(z) as wide as it is with that noise.

    Raises:
        NcbatchError: the neighbour has another N, other widths or more channels of y, or it is a bits-back
            checkpoint and the training of the kind base.
    """
    info, settings = checkpoint.info, model.settings
    fits = info.n == settings.n and info.m <= settings.m and info.widths == settings.widths
    if not fits or (info.kind, settings.kind) == ("bits-back", "base"):
        raise NcbatchError(
            f"a {info.kind} checkpoint of {_shape(info)} cannot start a {settings.kind} training of "
            f"{_shape(settings)}"
        )
    weights = checkpoint.state_dict()
    if info.m < settings.m:
        fresh = {name: tensor.detach() for name, tensor in model.network.state_dict().items()}
        weights = _widened(weights, fresh)
    if info.kind != settings.kind:
        mean_weight, mean_bias = weights["h_a.4.weight"], weights["h_a.4.bias"]
        log_variance = torch.full_like(mean_bias, math.log(_BOX_VARIANCE))
        weights["h_a.4.weight"] = torch.cat([mean_weight, torch.zeros_like(mean_weight)])
        weights["h_a.4.bias"] = torch.cat([mean_bias, log_variance])
        weights |= _broadened(weights)
    model.network.load_state_dict(weights)
