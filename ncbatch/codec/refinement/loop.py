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
from ncbatch.codec.refinement.convergence import Convergence
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

    An image that has converged leaves these tensors: its result is final, and a step is computed for the
    others only.

    Args:
        images: float32[images, 3, H, W] in 0..1, padded.
        targets: one per image.

    Attributes:
        step: steps taken by the images that go on.
        best: the hard-rounded iterate of the smallest loss so far, per image; the amortized one at first.
        amortized: what the encoder network gave, rounded.
    """

    def __init__(self, model: Model, images: Tensor, targets: Sequence[Target], recipe: Refined) -> None:
        self._model, self._targets, self._recipe = model, targets, recipe
        self._space = latent_space(model, recipe)
        originals = Originals.of(images, [(target.height, target.width) for target in targets])
        variables = self._space.begin(images)
        self._steps = Step(model, recipe, self._space, variables, originals, [t.noise for t in targets])
        self.step = 0
        self._active = list(range(len(targets)))
        self._stopped = [0] * len(targets)  # at which step; 0 of an image that goes on
        self._convergence = Convergence(recipe, len(targets))
        self.best, self._best_bits, self._best_error = self._hard()
        self.amortized = self.best

    @property
    def variables(self) -> Variables:
        """What is optimised, by name, of the images that go on; "y" is always among it."""
        return self._steps.variables

    @property
    def best_loss(self) -> Tensor:
        """The smallest loss so far, bits + lmbda * 255^2 * SSE / 3; float64[images]."""
        return self._loss(self._best_bits, self._best_error)

    @property
    def done(self) -> bool:
        """Whether all steps are taken, or all images have converged."""
        return not self._active or self.step >= self._recipe.steps

    @property
    def steps_taken(self) -> list[int]:
        """By each image."""
        return [stopped or self.step for stopped in self._stopped]

    @property
    def has_stopped(self) -> list[bool]:
        """Of each image, whether it has converged."""
        return [stopped > 0 for stopped in self._stopped]

    def advance(self) -> None:
        """Takes one step; from time to time the rounded latents are kept if they are the best so far.

        Raises:
            DivergedError: an image's loss is not finite any more.
        """
        if self._active:
            self._steps.take(self.step)
        self.step += 1
        if self._active and (self.step % self._recipe.check_every == 0 or self.step == self._recipe.steps):
            self._keep_best()
            self._stop_converged()

    def _loss(self, bits: Tensor, squared_error: Tensor) -> Tensor:
        return bits + squared_error * (self._recipe.lmbda * 255**2 / 3)  # of samples in 0..1

    def _hard(self) -> tuple[Latents, Tensor, Tensor]:
        """The rounded iterate, its bits, and its squared error in 0..1 by the loop's g_s, float64; of the
        images that go on.
        """
        values = {name: variable.detach().contiguous() for name, variable in self.variables.items()}
        latents, bits = self._space.rounded(values, self._steps.look_noise())
        return latents, bits, self._steps.originals.squared_error(self._model, self._space.y_hat(latents))

    def looks(self) -> list[TracePoint]:
        """Rate and distortion of every image's rounded latents at this step; changes nothing.

        Of an image that has stopped it is what was kept.
        """
        all_bits, all_errors = self._best_bits.clone(), self._best_error.clone()
        if self._active:
            _, all_bits[self._active], all_errors[self._active] = self._hard()
        tau = self._recipe.tau(self.step) if isinstance(self._recipe, AnnealedRecipe) else None
        found = []
        for bits, error, target in zip(all_bits.tolist(), all_errors.tolist(), self._targets, strict=True):
            pixels = target.height * target.width
            bpp, mse = bits / pixels, 255**2 * error / (3 * pixels)
            found.append(TracePoint(self.step, tau, bpp, mse, bpp + self._recipe.lmbda * mse))
        return found

    def _keep_best(self) -> None:
        latents, bits, squared_error = self._hard()
        active = torch.tensor(self._active, device=bits.device)
        if self.step == self._recipe.steps and self._model.fast_synthesis.dtype != torch.float32:
            # Bfloat16 is off by 0.02 to 0.15 % in distortion for the built-in models; this choice is final.
            squared_error = self._precise_error(latents)
            best = self._precise_error(Latents(self.best.y[active], self.best.z[active]))
            self._best_error = self._best_error.index_copy(0, active, best)
        loss = self._loss(bits, squared_error)
        if not bool(loss.isfinite().all() & self.variables["y"].isfinite().all()):
            raise DivergedError(f"the refinement diverged by step {self.step}; use a smaller learning rate")
        better = loss < self.best_loss[active]

        def chosen(new: Tensor, old: Tensor) -> Tensor:
            choose = better.view(-1, *[1] * (new.dim() - 1))
            return old.index_copy(0, active, torch.where(choose, new, old[active]))

        self.best = Latents(chosen(latents.y, self.best.y), chosen(latents.z, self.best.z))
        self._best_bits = chosen(bits, self._best_bits)
        self._best_error = chosen(squared_error, self._best_error)

    def _stop_converged(self) -> None:
        losses = self.best_loss.tolist()
        stopping = {i for i in self._active if self._convergence.reached(i, self.step, losses[i])}
        for image in stopping:
            self._stopped[image] = self.step
        if stopping:
            self._go_on_with([image for image in self._active if image not in stopping])

    def _go_on_with(self, images: list[int]) -> None:
        if 0 < len(images) < len(self._active):
            self._steps = self._steps.only([self._active.index(image) for image in images], self.step)
        self._active = images

    def _precise_error(self, latents: Latents) -> Tensor:
        """Squared error in 0..1 by the decoder's g_s, of the images that go on; float64."""
        return self._steps.originals.precise_squared_error(self._model, self._space.y_hat(latents))

    def state(self) -> dict[str, Tensor]:
        """All that changes from step to step, by name, the first dimension over the images; see `restore`.

        What is optimised is zero of images that have stopped.
        """
        found = {"best.y": self.best.y, "best.z": self.best.z}
        found |= {"best.bits": self._best_bits, "best.error": self._best_error}
        found |= {"stopped": torch.tensor(self._stopped), **self._convergence.state()}
        for name, tensor in self._steps.state().items():
            found[name] = tensor.new_zeros(len(self._targets), *tensor.shape[1:])
            if self._active:
                found[name][self._active] = tensor
        return found

    def restore(self, state: dict[str, Tensor], images: slice) -> None:
        """Goes on from these images' part of a `Refinement.state()` of the same model and settings."""

        def saved(name: str) -> Tensor:
            return state[name][images].to(self._model.device)

        self.step = int(state["step"])
        self._stopped = state["stopped"][images].tolist()
        self._convergence.restore(
            state["converging.reference"][images], state["converging.without_gain"][images]
        )
        self._steps.restore(saved, self.step)
        self._go_on_with([image for image, stopped in enumerate(self._stopped) if not stopped])
        self.best = Latents(saved("best.y"), saved("best.z"))
        self._best_bits, self._best_error = saved("best.bits"), saved("best.error")
