"""Optimises the latents of images that share their tensors, and keeps the best that were looked at."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ncbatch.codec.errors import DivergedError
from ncbatch.codec.methods import Refined
from ncbatch.codec.model.extents import fitted
from ncbatch.codec.model.hyperprior import Latents, Model
from ncbatch.codec.recipe import AnnealedRecipe
from ncbatch.codec.refinement.canvas import Shape, padded, shared
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
        mse: on 0..255; with MS-SSIM in the loss, what stands in its place there.
        rd_loss: bits per pixel + lmbda * mse.
    """

    step: int
    tau: float | None
    information_bpp: float
    mse: float
    rd_loss: float


class _Course:
    """How far one image is."""

    def __init__(self, target: Target, recipe: Refined) -> None:
        self.target = target
        self.convergence = Convergence(recipe, target.height * target.width)
        self.taken, self.ended = 0, False
        self.error: DivergedError | None = None

    def diverge(self) -> None:
        self.ended = True
        self.error = DivergedError(
            f"the refinement diverged by step {self.taken}; use a smaller learning rate"
        )


class JointRefinement:
    """A refinement in progress of images whose variables are one tensor each.

    Images of several sizes share tensors that all of them fit in, and become what they become alone, up to
    the order of sums.

    An image that has taken its steps, has converged or diverged has ended: its result is final. Its place in
    the tensors goes to one that joins; places that nobody takes are given up once they are half of all.

    Args:
        images: float32[3, H, W] in 0..1, padded; one per image.
        targets: one per image.
        whole: height and width of the tensors, in pixels, if others are to join that are larger than these
            images; by default what `canvas.shared` says.

    Attributes:
        whole: height and width of the tensors, in pixels.
        best: the hard-rounded iterate of the smallest loss so far, per image; the amortized one at first.
        amortized: what the encoder network gave, rounded.
    """

    def __init__(
        self,
        model: Model,
        images: Iterable[Tensor],
        targets: Sequence[Target],
        recipe: Refined,
        whole: Shape | None = None,
    ) -> None:
        self._model, self._recipe = model, recipe
        space = latent_space(model, recipe)
        self._y_hat = space.y_hat
        images = list(images)
        self.whole = whole or shared([(image.shape[1], image.shape[2]) for image in images])
        if any(image.shape[1] > self.whole[0] or image.shape[2] > self.whole[1] for image in images):
            raise ValueError(f"an image is larger than the tensors, {self.whole}; refine it with others")
        sizes = [(target.height, target.width) for target in targets]
        originals = Originals.of(images, sizes, model.subpixels, self.whole)
        variables = space.begin(images, *self.whole)
        self._steps = Step(model, recipe, space, variables, originals, [t.noise for t in targets])
        self._courses = [_Course(target, recipe) for target in targets]
        self._places: list[int | None] = list(range(len(targets)))  # the image at each; None: it is gone
        self.best, self._best_bits, self._best_error = self._hard()
        self.amortized = self.best

    @property
    def variables(self) -> Variables:
        """What is optimised, by name, of the images that have a place; "y" is always among it."""
        return self._steps.variables

    @property
    def best_loss(self) -> Tensor:
        """The smallest loss so far, bits + lmbda * 255^2 * SSE / 3; float64[images]."""
        return self._loss(self._best_bits, self._best_error)

    @property
    def step(self) -> int:
        """The most steps that an image has taken."""
        return max(self.steps_taken)

    @property
    def steps_taken(self) -> list[int]:
        """By each image."""
        return [course.taken for course in self._courses]

    @property
    def has_ended(self) -> list[bool]:
        """Of each image, whether its result is final."""
        return [course.ended for course in self._courses]

    @property
    def errors(self) -> list[DivergedError | None]:
        """Of each image, why there is no result."""
        return [course.error for course in self._courses]

    @property
    def _active(self) -> list[int]:
        """The places of the images that go on."""
        return [p for p, i in enumerate(self._places) if i is not None and not self._courses[i].ended]

    def advance(self) -> None:
        """Takes one step; from time to time the rounded latents are kept if they are the best so far."""
        active = self._active
        if not active:
            return
        # Not for each that ends: to record a smaller step takes as long as many steps with a place too many.
        if 2 * len(active) <= len(self._places):
            self._steps = self._steps.only(active)
            self._places = [self._places[place] for place in active]
        going_on = self._at(self._active)
        self._steps.take()
        for course in going_on:
            course.taken += 1
        self._look()

    def _at(self, places: Iterable[int]) -> list[_Course]:
        """The images at some places that are not given up."""
        return [self._courses[image] for p in places if (image := self._places[p]) is not None]

    def join(self, others: JointRefinement) -> None:
        """Goes on with the images of another, of the same model, recipe and tensors, behind its own."""
        first = len(self._courses)
        self._courses += others._courses
        self.best, self.amortized = (
            self.best.with_more(others.best),
            self.amortized.with_more(others.amortized),
        )
        self._best_bits = torch.cat([self._best_bits, others._best_bits])
        self._best_error = torch.cat([self._best_error, others._best_error])
        theirs = others._steps
        both = self._steps.originals, theirs.originals
        if not both[0].is_like(both[1]):
            extents = any(originals.extents is not None for originals in both)
            self._steps, theirs = self._steps.masked(extents=extents), theirs.masked(extents=extents)
        active = set(self._active)
        vacant = iter([place for place in range(len(self._places)) if place not in active])
        left = []
        for place, image in enumerate(others._places):
            if image is None:
                continue
            into = next(vacant, None)
            if into is None:
                left.append(place)
            else:
                self._steps.put(into, theirs, place)
                self._places[into] = first + image
        if left:
            self._steps = Step.together([self._steps, theirs.only(left)])
            self._places += [first + image for p in left if (image := others._places[p]) is not None]

    def turn(self, recipe: Refined, step: int) -> None:
        """Goes on under another recipe that differs in lmbda, as if so many steps had been taken. The best
        latents are sought anew, since others are the best now.
        """
        self._recipe, self._steps = recipe, self._steps.turned(recipe, step)
        self._courses = [_Course(course.target, recipe) for course in self._courses]
        for course in self._courses:
            course.taken = step
        self.best, self._best_bits, self._best_error = self._hard()

    @property
    def rounded(self) -> Latents:
        """The iterate as it is now, rounded; of the images that have a place."""
        return self._steps.rounded()[0]

    def drop(self, images: Collection[int]) -> None:
        """Forgets images that have ended; the others move up."""
        kept = [image for image in range(len(self._courses)) if image not in images]
        self._courses = [self._courses[image] for image in kept]
        self.best, self.amortized = self.best.only(kept), self.amortized.only(kept)
        self._best_bits, self._best_error = self._best_bits[kept], self._best_error[kept]
        now = {image: index for index, image in enumerate(kept)}
        self._places = [None if image is None else now.get(image) for image in self._places]

    def result(self, image: int) -> tuple[Latents, Latents]:
        """An image's amortized latents and its best, of its own size and without the others'."""
        target = self._courses[image].target
        size = padded(target.height, target.width)
        return self.amortized.only([image]).cropped(*size), self.best.only([image]).cropped(*size)

    def _loss(self, bits: Tensor, squared_error: Tensor) -> Tensor:
        return bits + squared_error * (self._recipe.lmbda * 255**2 / 3)  # of samples in 0..1

    def _hard(self) -> tuple[Latents, Tensor, Tensor]:
        """The rounded iterate, its bits, and its squared error in 0..1 by the loop's g_s, float64; of the
        images that have a place.
        """
        latents, bits = self._steps.rounded()
        return latents, bits, self._steps.error(self._y_hat(latents, self._steps.originals.extents))

    def looks(self) -> list[TracePoint]:
        """Rate and distortion of every image's rounded latents at its step; changes nothing.

        Of an image that has ended it is what was kept.
        """
        all_bits, all_errors = self._best_bits.clone(), self._best_error.clone()
        active = self._active
        if active:
            images = [self._places[place] for place in active]
            _, bits, errors = self._hard()
            all_bits[images], all_errors[images] = bits[active], errors[active]
        found = []
        for bits, error, course in zip(all_bits.tolist(), all_errors.tolist(), self._courses, strict=True):
            tau = self._recipe.tau(course.taken) if isinstance(self._recipe, AnnealedRecipe) else None
            pixels = course.target.height * course.target.width
            bpp, mse = bits / pixels, 255**2 * error / (3 * pixels)
            found.append(TracePoint(course.taken, tau, bpp, mse, bpp + self._recipe.lmbda * mse))
        return found

    def _look(self) -> None:
        """Keeps the rounded iterates of images whose turn it is, where they are better, and ends images."""
        recipe = self._recipe
        places = [
            place
            for place in self._active
            for course in self._at([place])
            if course.taken % recipe.check_every == 0 or course.taken == recipe.steps
        ]
        if not places:
            return
        images = torch.tensor([self._places[place] for place in places], device=self._best_bits.device)
        latents, bits, error = self._hard()
        latents, bits, error = latents.only(places), bits[places], error[places]
        best_bits, best_error = self._best_bits[images], self._best_error[images]
        ending = self._end(places, self._loss(bits, error), self._loss(best_bits, best_error))
        if ending and self._model.fast_synthesis.dtype != torch.float32:
            # Bfloat16 is off by 0.02 to 0.15 % in distortion for the built-in models; this choice is final.
            chosen_places = [places[index] for index in ending]
            extents = self._steps.originals.only(chosen_places).extents
            for found, of in ((error, latents), (best_error, self.best.only(images.tolist()))):
                y_hat = self._y_hat(of.only(ending), extents)
                found[ending] = self._steps.precise_error(chosen_places, y_hat)
        better = self._loss(bits, error) < self._loss(best_bits, best_error)

        def chosen(new: Tensor, old: Tensor) -> Tensor:
            choose = better.view(-1, *[1] * (new.dim() - 1))
            return old.index_copy(0, images, torch.where(choose, new, old[images]))

        self.best = Latents(chosen(latents.y, self.best.y), chosen(latents.z, self.best.z))
        self._best_bits = chosen(bits, self._best_bits)
        self._best_error = self._best_error.index_copy(0, images, torch.where(better, error, best_error))

    def _end(self, places: Sequence[int], loss: Tensor, best: Tensor) -> list[int]:
        """Marks the images at some places that have ended.

        Args:
            places: of images that were looked at.
            loss: of the iterate looked at, and
            best: of the best before; float64[places].

        Returns:
            which of the places end with a result, as indices.
        """
        y = self.variables["y"].detach().flatten(1)
        sound = (loss.isfinite() & y.isfinite().all(1)[list(places)]).tolist()
        lowest = torch.minimum(loss, best).tolist()
        ending = []
        for index, course in enumerate(self._at(places)):
            if not sound[index]:
                course.diverge()
            elif course.taken == self._recipe.steps or course.convergence.reached(
                course.taken, lowest[index]
            ):
                course.ended = True
                ending.append(index)
        return ending

    def state(self) -> dict[str, Tensor]:
        """All that changes from step to step, by name, the first dimension over the images; see `restore`.

        What is optimised is zero of images that have given up their place.
        """
        found = {"best.y": self.best.y, "best.z": self.best.z}
        found |= {"best.bits": self._best_bits, "best.error": self._best_error}
        found["taken"] = torch.tensor(self.steps_taken)
        found["ended"] = torch.tensor(self.has_ended)
        found["diverged"] = torch.tensor([error is not None for error in self.errors])
        convergences = [course.convergence for course in self._courses]
        found["converging.reference"] = torch.tensor([c.reference for c in convergences], dtype=torch.float64)
        found["converging.without_gain"] = torch.tensor([c.without_gain for c in convergences])
        placed = [(place, image) for place, image in enumerate(self._places) if image is not None]
        for name, tensor in self._steps.state().items():
            found[name] = tensor.new_zeros(len(self._courses), *tensor.shape[1:])
            for place, image in placed:
                found[name][image] = tensor[place]
        return found

    def restore(self, state: dict[str, Tensor], images: slice) -> None:
        """Goes on from these images' part of a `Refinement.state()` of the same model and settings, right
        after it was made.
        """

        def saved(name: str) -> Tensor:
            return state[name][images].to(self._model.device)

        names = ("taken", "ended", "diverged", "converging.reference", "converging.without_gain")
        told = zip(self._courses, *(state[name][images].tolist() for name in names), strict=True)
        for course, taken, ended, diverged, reference, without_gain in told:
            course.taken, course.ended = taken, ended
            course.convergence.reference, course.convergence.without_gain = reference, without_gain
            if diverged:
                course.diverge()
        self._steps.restore(saved, self.steps_taken)
        self.best = Latents(
            fitted(saved("best.y"), *self.best.y.shape[2:]), fitted(saved("best.z"), *self.best.z.shape[2:])
        )
        self._best_bits, self._best_error = saved("best.bits"), saved("best.error")
