"""Optimises the latents of images that share their tensors, and keeps the best that were looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ncbatch.codec.errors import DivergedError
from ncbatch.codec.methods import Refined
from ncbatch.codec.model.hyperprior import Latents, Model
from ncbatch.codec.recipe import AnnealedRecipe
from ncbatch.codec.refinement.latents import Variables, latent_space
from ncbatch.codec.refinement.noise import ImageNoise
from ncbatch.codec.refinement.originals import Originals
from ncbatch.codec.refinement.step import Step


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
        best: the hard-rounded iterate of the smallest loss so far, per image; the amortized one at first.
        best_loss: float64[images], bits + lmbda * 255^2 * SSE / 3.
    """

    def __init__(self, model: Model, images: Tensor, targets: Sequence[Target], recipe: Refined) -> None:
        self._model, self._targets, self._recipe = model, targets, recipe
        self._space = latent_space(model, recipe)
        originals = Originals.of(images, [(target.height, target.width) for target in targets])
        variables = self._space.begin(images)
        self._steps = Step(model, recipe, self._space, variables, originals, [t.noise for t in targets])
        self.step = 0
        self.best, bits, squared_error = self._hard()
        self.best_loss = bits + squared_error * self._distortion_weight
        self.amortized = self.best

    @property
    def variables(self) -> Variables:
        """What is optimised, by name; "y" is always among it."""
        return self._steps.variables

    def advance(self) -> None:
        """Takes one step; from time to time the rounded latents are kept if they are the best so far.

        Raises:
            DivergedError: an image's loss is not finite any more.
        """
        self._steps.take(self.step)
        self.step += 1
        if self.step % self._recipe.check_every == 0 or self.step == self._recipe.steps:
            self._keep_best()

    @property
    def _distortion_weight(self) -> float:
        """Of the sum of squared errors of samples in 0..1 in the loss."""
        return self._recipe.lmbda * 255**2 / 3

    def _hard(self) -> tuple[Latents, Tensor, Tensor]:
        """The rounded iterate, its bits, and its squared error in 0..1 by the loop's g_s; float64[images]."""
        values = {name: variable.detach().contiguous() for name, variable in self.variables.items()}
        latents, bits = self._space.rounded(values, self._steps.look_noise())
        return latents, bits, self._steps.originals.squared_error(self._model, self._space.y_hat(latents))

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
        if self.step == self._recipe.steps and self._model.fast_synthesis.dtype != torch.float32:
            loss = loss + self._deviation(latents)
            self.best_loss = self.best_loss + self._deviation(self.best)
        better = loss < self.best_loss
        choose = better.view(-1, 1, 1, 1)
        self.best = Latents(
            torch.where(choose, latents.y, self.best.y), torch.where(choose, latents.z, self.best.z)
        )
        self.best_loss = torch.where(better, loss, self.best_loss)

    def _deviation(self, latents: Latents) -> Tensor:
        """By how much the loss is larger than the loop's g_s says, float64[images].

        In bfloat16 its distortion is off by 0.02 to 0.15 % for the built-in models.
        """
        y_hat, originals = self._space.y_hat(latents), self._steps.originals
        precise = originals.precise_squared_error(self._model, y_hat)
        return (precise - originals.squared_error(self._model, y_hat)) * self._distortion_weight

    def state(self) -> dict[str, Tensor]:
        """All that changes from step to step, by name, the first dimension over the images; see `restore`."""
        best = {"best.y": self.best.y, "best.z": self.best.z, "best.loss": self.best_loss}
        return self._steps.state() | best

    def restore(self, state: dict[str, Tensor], images: slice) -> None:
        """Goes on from these images' part of a `Refinement.state()` of the same model and settings."""

        def saved(name: str) -> Tensor:
            return state[name][images].to(self._model.device)

        self.step = int(state["step"])
        self._steps.restore(saved, self.step)
        self.best = Latents(saved("best.y"), saved("best.z"))
        self.best_loss = saved("best.loss")
