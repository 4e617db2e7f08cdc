"""How variables become latents: where they begin, what they cost, and what they are rounded to.

Without bits-back z is a point, rounded like y, and y is rounded around the mu that z gives. With bits-back z
has a posterior, of which samples are coded; that is found anew from the rounded y later, so y lies on the
integers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ncbatch.codec.ans import MAX_SYMBOL
from ncbatch.codec.methods import Refined
from ncbatch.codec.model.exact_hyper_synthesis import FINE_STEP, UNIT
from ncbatch.codec.model.extents import Extents, fitted
from ncbatch.codec.model.hyperprior import PADDING, STRIDE, Latents, Model
from ncbatch.codec.model.precision import full_float32
from ncbatch.codec.model.rates import bits_back, gaussian_bits, gaussian_gradients
from ncbatch.codec.refinement.noise import normal

Variables = dict[str, Tensor]
Noise = dict[str, Tensor]
"""Uniform noise by the variable's name, of its shape."""
Relax = Callable[[str, Tensor], Tensor]
"""A variable's name and its values on the grid's scale, to (nearly) rounded ones."""


_STRIDES = {"y": STRIDE, "z": PADDING}
"""Pixels per element of a variable and side."""


@dataclass(frozen=True)
class Relaxed:
    """Relaxed latents, and what the rate's gradient is computed from.

    Rates are sums with nothing behind them, so the gradient begins at their arguments.

    Attributes:
        y: the relaxed latents that g_s gets; float32[batch, M, h, w].
        centred: y less its means.
        scales: of y, not yet bounded.
        z: relaxed.
        roots: tensors of the graph.
        gradients: of the bits of the batch with respect to the roots; None of a root that is bits itself.
    """

    y: Tensor
    centred: Tensor
    scales: Tensor
    z: Tensor
    roots: tuple[Tensor, ...]
    gradients: tuple[Tensor | None, ...]


class PointSpace:
    """y and z as points. All methods take the variables of a batch of images."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def begin(self, images: Sequence[Tensor], height: int, width: int) -> Variables:
        """What the encoder network gives, in tensors for images of this height and width.

        Args:
            images: of each, float32[3, H, W] in 0..1, padded.
            height: of the tensors, in pixels.
            width: of the tensors, in pixels.
        """
        found = [self._model.analyse(image[None]) for image in images]
        return {
            name: torch.cat([fitted(one, height // stride, width // stride) for one in variable])
            for (name, stride), variable in zip(_STRIDES.items(), zip(*found, strict=True), strict=True)
        }

    def relaxed(
        self, variables: Variables, relax: Relax, noise: Noise, extents: Extents | None = None
    ) -> Relaxed:
        """The relaxed latents and their rate's gradient.

        Beyond the borders of images that differ in size, variables have a rate, too, and go where they like:
        nothing else sees them.
        """
        model, medians = self._model, self._model.medians
        z = relax("z", variables["z"] - medians) + medians
        parameters = model.fast_hyper_synthesis(z, extents).float()
        if extents is not None:
            parameters = extents.clear(parameters)
        scales, means = parameters.chunk(2, 1)
        centred = relax("y", variables["y"] - means)
        gradients = (*gaussian_gradients(centred, scales), model.prior.gradient(z))
        return Relaxed(centred + means, centred, scales, z, (centred, scales, z), gradients)

    def rounded(
        self, variables: Variables, noise: Noise, extents: Extents | None = None
    ) -> tuple[Latents, Tensor]:
        """The rounded latents and their information content, float64[batch]."""
        latents = self._model.round(variables["y"], variables["z"], extents)
        bits_y, bits_z = self._model.information(latents, extents)
        return latents, bits_y + bits_z

    def y_hat(self, latents: Latents, extents: Extents | None = None) -> Tensor:
        """The decoded latents, float32[batch, M, h, w]."""
        return self._model.y_hat(latents, extents)


class PosteriorSpace:
    """y, and the mean and log-variance of q(z); rates are net of the bits got back. Otherwise as
    `PointSpace`; but all images are of one size.
    """

    def __init__(self, model: Model) -> None:
        self._model = model

    def begin(self, images: Sequence[Tensor], height: int, width: int) -> Variables:
        """The encoder network's y, mean and log-variance."""
        y, _ = self._model.analyse(torch.stack(list(images)))
        with torch.no_grad(), full_float32(y.device):
            posteriors = [self._model.hyper_analysis(one[None]) for one in y]  # one by one, as in `analyse`
        mean, log_variance = torch.cat(posteriors).chunk(2, 1)
        return {"y": y, "z": mean.contiguous(), "log_variance": log_variance.contiguous()}

    def relaxed(
        self, variables: Variables, relax: Relax, noise: Noise, extents: Extents | None = None
    ) -> Relaxed:
        """The relaxed latents and their net rate's gradient."""
        model, log_variance = self._model, variables["log_variance"]
        z = variables["z"] + (0.5 * log_variance).exp() * normal(noise["z"])
        scales, means = model.fast_hyper_synthesis(z).float().chunk(2, 1)
        y = relax("y", variables["y"])
        centred = y - means
        # Bits got back grow with the log-variance by the same, whatever the sample.
        wrt_log_variance = torch.full_like(log_variance, -0.5 / math.log(2))
        roots = (centred, scales, model.prior.density_bits(z).sum(), log_variance)
        gradients = (*gaussian_gradients(centred, scales), None, wrt_log_variance)
        return Relaxed(y, centred, scales, z, roots, gradients)

    def rounded(
        self, variables: Variables, noise: Noise, extents: Extents | None = None
    ) -> tuple[Latents, Tensor]:
        """y on the integers, one sample of z on the fine grid, and their net information content."""
        model, log_variance = self._model, variables["log_variance"]
        sample = normal(noise["z"])
        z = variables["z"] + (0.5 * log_variance).exp() * sample
        latents = Latents(round_y(variables["y"]), (z * (UNIT / FINE_STEP)).round().to(torch.int32))
        mu, sigma = model.fine_coding_parameters(latents.z)
        with torch.no_grad():
            centred = latents.y.float() - mu.float() / UNIT
            bits_y = gaussian_bits(centred, sigma.float() / UNIT).double().sum((1, 2, 3))
            net_z = model.prior.density_bits(z) - bits_back(log_variance, sample).sum((1, 2, 3))
        return latents, bits_y + net_z.double()

    def y_hat(self, latents: Latents, extents: Extents | None = None) -> Tensor:
        """The decoded latents, float32[batch, M, h, w]."""
        return latents.y.float()


def round_y(y: Tensor) -> Tensor:
    """y on the integers, as it is coded with bits-back; int32."""
    return y.round().clamp(-MAX_SYMBOL, MAX_SYMBOL).to(torch.int32)


def latent_space(model: Model, recipe: Refined) -> PointSpace | PosteriorSpace:
    """The space that a recipe's variables are in."""
    return PosteriorSpace(model) if recipe.uses_bits_back else PointSpace(model)
