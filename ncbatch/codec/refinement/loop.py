"""Optimises the latents of images that share their tensors, under a relaxation of the rounding.

Loss per image: bits + lmbda * 255^2 * SSE / 3 (a sum; a mean per pixel would make the gradients as small as
Adam's epsilon, and the result would depend on image and batch size). Noise, loss and Adam are elementwise or
per image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ncbatch.codec.errors import DivergedError
from ncbatch.codec.methods import Refined
from ncbatch.codec.model.hyperprior import STRIDE, Latents, Model, Tile
from ncbatch.codec.recipe import AnnealedRecipe
from ncbatch.codec.refinement.latents import latent_space
from ncbatch.codec.refinement.noise import ImageNoise
from ncbatch.codec.refinement.relaxation import Relaxation

_SUBPIXEL_STRIDE = STRIDE // 2  # points of the image in subpixels per latent and side


@dataclass(frozen=True)
class Target:
    """One image of a batch.

    Attributes:
        height: in pixels, without padding.
        width: in pixels, without padding.
        noise: its own.
    """

    height: int
    width: int
    noise: ImageNoise


@dataclass(frozen=True)
class TracePoint:
    """An image's hard-rounded latents at a step.

    Attributes:
        step: how many were taken.
        tau: the temperature; None of a method without one.
        information_bpp: bits per pixel.
        mse: on 0..255.
        rd_loss: bits per pixel + lmbda * mse.
    """

    step: int
    tau: float | None
    information_bpp: float
    mse: float
    rd_loss: float


class JointRefinement:
    """A refinement in progress of images whose variables are one tensor each.

    Args:
        images: float32[images, 3, H, W] in 0..1, padded.
        targets: one per image.

    Attributes:
        variables: what is optimised, by name; "y" is always among it.
        best: the hard-rounded iterate of the smallest loss so far, per image; the amortized one at first.
        best_loss: float64[images], bits + lmbda * 255^2 * SSE / 3.
    """

    def __init__(self, model: Model, images: Tensor, targets: Sequence[Target], recipe: Refined) -> None:
        self._model, self._targets, self._recipe = model, targets, recipe
        self._relax = Relaxation(recipe)
        self._subpixels = _subpixels(images)
        self._mask = _true_pixels(images, targets)
        self._space = latent_space(model, recipe)
        self.variables = {name: v.requires_grad_() for name, v in self._space.begin(images).items()}
        self._tiles = Tile.cover(images.shape[2] // STRIDE, images.shape[3] // STRIDE)
        self._counters = {name: _counter(v) for name, v in self.variables.items()}
        betas = (recipe.beta1, recipe.beta2)
        self._adam = torch.optim.Adam(self.variables.values(), recipe.learning_rate, betas, fused=True)
        self.step = 0
        self.best, bits, squared_error = self._hard()
        self.best_loss = bits + squared_error * self._distortion_weight
        self.amortized = self.best

    def advance(self) -> None:
        """Takes one step; from time to time the rounded latents are kept if they are the best so far.

        Raises:
            DivergedError: an image's loss is not finite any more.
        """
        self._descend()
        self.step += 1
        if self.step % self._recipe.check_every == 0 or self.step == self._recipe.steps:
            self._keep_best()

    def _uniform(self, name: str, step: int | str) -> Tensor:
        """Noise for a variable, of every image its own."""
        counter = self._counters[name]
        return torch.cat([target.noise.uniform(name, step, counter) for target in self._targets])

    def _relaxed(self, name: str, values: Tensor) -> Tensor:
        uniform = self._uniform(name, self.step) if self._relax.wants_noise else None
        return self._relax(values, self.step, uniform)

    def _rate_and_latents(self) -> tuple[Tensor, Tensor]:
        """Bits of the relaxed latents, summed over the batch, and the relaxed y."""
        return self._space.relaxed(self.variables, self._relaxed, lambda name: self._uniform(name, self.step))

    def _descend(self) -> None:
        self._adam.zero_grad(set_to_none=True)
        self._adam.param_groups[0]["lr"] = self._recipe.learning_rate_at(self.step)
        bits, y = self._rate_and_latents()
        # The graph of g_s is the large one, so it is built and released tile by tile; the gradients it
        # leaves at y then join those of the rate.
        leaf = y.detach().requires_grad_()
        for tile in self._tiles:
            self._backward_distortion(leaf, tile)
        torch.autograd.backward([bits, y], [None, leaf.grad])
        self._adam.step()

    def _difference(self, y: Tensor, tile: Tile) -> tuple[Tensor, Tensor]:
        """The tile's reconstruction by the loop's g_s, and how far its true pixels are off; in subpixels."""
        reconstruction = tile.core(self._model.fast_synthesis(tile.latents(y)), _SUBPIXEL_STRIDE)
        with torch.no_grad():
            difference = reconstruction.float() - tile.pixels(self._subpixels, _SUBPIXEL_STRIDE)
            if self._mask is not None:
                difference *= tile.pixels(self._mask, _SUBPIXEL_STRIDE)
        return reconstruction, difference

    def _backward_distortion(self, y: Tensor, tile: Tile) -> None:
        """Adds the gradient of lmbda * 255^2 * SSE / 3 over the tile's true pixels to `y.grad`.

        The loop has no use for the value, and the gradient of a square needs no graph.
        """
        reconstruction, difference = self._difference(y, tile)
        gradient = difference.mul_(2 * self._distortion_weight)
        reconstruction.backward(gradient.to(reconstruction.dtype))

    @property
    def _distortion_weight(self) -> float:
        """Of the sum of squared errors of samples in 0..1 in the loss."""
        return self._recipe.lmbda * 255**2 / 3

    def _hard(self) -> tuple[Latents, Tensor, Tensor]:
        """The rounded iterate, its bits, and its squared error in 0..1 by the loop's g_s; float64[batch]."""
        values = {name: variable.detach() for name, variable in self.variables.items()}
        # The noise of a look is always the same: it compares iterates, not luck.
        latents, bits = self._space.rounded(values, lambda name: self._uniform(name, "look"))
        y_hat, squared_error = self._space.y_hat(latents), torch.zeros_like(bits)
        with torch.no_grad():
            for tile in self._tiles:
                squares = self._difference(y_hat, tile)[1].square().double()
                squared_error = squared_error + squares.sum((1, 2, 3))
        return latents, bits, squared_error

    def looks(self) -> list[TracePoint]:
        """Rate and distortion of every image's rounded latents at this step; changes nothing."""
        _, bits, squared_error = self._hard()
        tau = self._recipe.tau(self.step) if isinstance(self._recipe, AnnealedRecipe) else None
        found = []
        for b, e, target in zip(bits.tolist(), squared_error.tolist(), self._targets, strict=True):
            pixels = target.height * target.width
            mse = 255**2 * e / (3 * pixels)
            found.append(TracePoint(self.step, tau, b / pixels, mse, b / pixels + self._recipe.lmbda * mse))
        return found

    def _keep_best(self) -> None:
        latents, bits, squared_error = self._hard()
        loss = bits + squared_error * self._distortion_weight
        if not bool(loss.isfinite().all() & self.variables["y"].isfinite().all()):
            raise DivergedError(f"the refinement diverged by step {self.step}; use a smaller learning rate")
        better = loss < self.best_loss
        choose = better.view(-1, 1, 1, 1)
        self.best = Latents(
            torch.where(choose, latents.y, self.best.y), torch.where(choose, latents.z, self.best.z)
        )
        self.best_loss = torch.where(better, loss, self.best_loss)

    def state(self) -> dict[str, Tensor]:
        """All that changes from step to step, by name, the first dimension over the images; see `restore`."""
        tensors: dict[str, Tensor] = {}
        for name, parameter in self.variables.items():
            tensors[name] = parameter.detach()
            for moment in ("exp_avg", "exp_avg_sq"):
                if parameter in self._adam.state:
                    tensors[f"{moment}.{name}"] = self._adam.state[parameter][moment]
        tensors |= {"best.y": self.best.y, "best.z": self.best.z, "best.loss": self.best_loss}
        return tensors

    def restore(self, state: dict[str, Tensor], images: slice) -> None:
        """Goes on from these images' part of a `Refinement.state()` of the same model and settings."""

        def saved(name: str) -> Tensor:
            return state[name][images].to(self._model.device)

        self.step = int(state["step"])
        for name, parameter in self.variables.items():
            parameter.data.copy_(saved(name))
            if self.step:
                self._adam.state[parameter] = {
                    "step": torch.tensor(float(self.step), device=self._model.device),
                    "exp_avg": saved(f"exp_avg.{name}").clone(),
                    "exp_avg_sq": saved(f"exp_avg_sq.{name}").clone(),
                }
        self.best = Latents(saved("best.y"), saved("best.z"))
        self.best_loss = saved("best.loss")


def _counter(values: Tensor) -> Tensor:
    """Numbers the elements of one image's variable; int32[1, channels, h, w]."""
    shape = values.shape[1:]
    return torch.arange(shape.numel(), dtype=torch.int32, device=values.device).view(1, *shape)


def _subpixels(images: Tensor) -> Tensor:
    """[batch, channels, H, W] as [batch, 4 channels, H/2, W/2], laid out as g_s leaves its output."""
    return F.pixel_unshuffle(images, 2).contiguous(memory_format=torch.channels_last)


def _true_pixels(images: Tensor, targets: Sequence[Target]) -> Tensor | None:
    """1 where a subpixel is the image's own, 0 where it is padding; None when there is no padding."""
    if all((t.height, t.width) == tuple(images.shape[2:]) for t in targets):
        return None
    mask = torch.zeros_like(images)
    for plane, target in zip(mask, targets, strict=True):
        plane[:, : target.height, : target.width] = 1
    return _subpixels(mask)
