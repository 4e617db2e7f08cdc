"""Refinement of a batch, such that no image's result depends on the others.

On a CPU every image of a batch is computed in tensors of its own. Convolutions are given other kernels for a
batch than for one image, and elementwise functions are vectorised by chunks of the whole tensor, whose ends
take another path: either rounds differently, and Adam amplifies a last bit to other latents. A batch of large
images is a sixth faster that way, one of thumbnails a fifth slower. On a GPU a batch shares its tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

import torch
from torch import Tensor

from ncbatch.codec.errors import DivergedError
from ncbatch.codec.methods import Refined
from ncbatch.codec.model.extents import fitted
from ncbatch.codec.model.hyperprior import Latents, Model
from ncbatch.codec.refinement.loop import JointRefinement, Target, TracePoint


class Watched(Protocol):
    """A refinement in progress, as those see it who look at it, or save its state, between its steps."""

    @property
    def numbers(self) -> Sequence[int]:
        """Of the images that it holds; all else that is said of each image is in their order."""

    @property
    def steps_taken(self) -> Sequence[int]:
        """By each image."""

    @property
    def has_ended(self) -> Sequence[bool]:
        """Of each image, whether its result is final."""

    @property
    def step(self) -> int:
        """The most steps that an image has taken so far."""

    @property
    def done(self) -> bool:
        """Whether all images have ended."""

    def looks(self) -> Sequence[TracePoint]:
        """Rate and distortion of every image's rounded latents at its step; changes nothing."""

    def state(self) -> dict[str, Tensor]:
        """Everything needed to go on later, on any device."""


@dataclass(frozen=True)
class Ended:
    """What a refinement came to for one image.

    Attributes:
        number: of the image, counted as they joined.
        amortized: what the encoder network gave, rounded.
        best: the hard-rounded iterate of the smallest loss.
        steps_taken: by this image.
        error: why there is no result.
    """

    number: int
    amortized: Latents
    best: Latents
    steps_taken: int
    error: DivergedError | None


def shares_tensors(device: torch.device) -> bool:
    """Whether images that are refined together share their tensors, if their distortion is the MSE."""
    return device.type != "cpu"


class Refinement:
    """A refinement in progress; `advance` it until `done`, then take `best`.

    Images that have converged stop, each at its own step (see `RefinedRecipe.patience`). They can be taken
    out, and others may `join` in their place: what an image becomes does not depend on when it joined.

    Args:
        images: float32[3, H, W] in 0..1, padded; one per image. On a GPU, those that differ in size share
            tensors (see `canvas.shared`).
        targets: one per image.

    Attributes:
        numbers: of the images that it holds, counted from 0 as they joined. All else that is said of each
            image is in their order.
        joined: how many images have joined in all, those that have been taken out included.
    """

    def __init__(
        self, model: Model, images: Iterable[Tensor], targets: Sequence[Target], recipe: Refined
    ) -> None:
        self._model, self._recipe = model, recipe
        self._parts: list[JointRefinement] = []
        self.numbers: list[int] = []
        self.joined = 0
        self.join(images, targets)

    def join(self, images: Iterable[Tensor], targets: Sequence[Target]) -> None:
        """Begins with further images; arguments as of the class. On a GPU they have to fit in the tensors of
        those that go on.
        """
        images = list(images)
        shares = shares_tensors(self._model.device) and not self._recipe.ms_ssim_weight
        together = len(targets) if shares else 1
        whole = self._parts[0].whole if shares and self._parts else None
        for i in range(0, len(targets), together):
            chosen = slice(i, i + together)
            part = JointRefinement(self._model, images[chosen], targets[chosen], self._recipe, whole)
            if shares and self._parts:
                self._parts[0].join(part)
            else:
                self._parts.append(part)
        self.numbers += range(self.joined, self.joined + len(targets))
        self.joined += len(targets)

    @property
    def going_on(self) -> list[int]:
        """The numbers of the images that have not ended."""
        return [number for number, ended in zip(self.numbers, self.has_ended, strict=True) if not ended]

    @property
    def may_join(self) -> bool:
        """Whether images that join now will be looked at together with those that go on: a look takes as long
        for one image as for all that share their tensors.
        """
        taken = zip(self.steps_taken, self.has_ended, strict=True)
        return all(steps % self._recipe.check_every == 0 for steps, ended in taken if not ended)

    def take_ended(self) -> list[Ended]:
        """Takes out the images whose result is final."""
        found, numbers, first = [], [], 0
        for part in self._parts:
            ended = [image for image, has in enumerate(part.has_ended) if has]
            own = self.numbers[first : first + len(part.has_ended)]
            first += len(own)
            for image in ended:
                found.append(
                    Ended(own[image], *part.result(image), part.steps_taken[image], part.errors[image])
                )
            numbers += [number for image, number in enumerate(own) if image not in ended]
            part.drop(ended)
        self.numbers = numbers
        self._parts = [part for part in self._parts if part.steps_taken]
        return found

    @property
    def step(self) -> int:
        """The most steps that an image has taken so far."""
        return max(self.steps_taken, default=0)

    @property
    def done(self) -> bool:
        """Whether all images have ended."""
        return all(self.has_ended)

    @property
    def steps_taken(self) -> list[int]:
        """By each image."""
        return list(chain.from_iterable(part.steps_taken for part in self._parts))

    @property
    def has_ended(self) -> list[bool]:
        """Of each image, whether its result is final: it has taken its steps, has converged, or diverged."""
        return list(chain.from_iterable(part.has_ended for part in self._parts))

    @property
    def errors(self) -> list[DivergedError | None]:
        """Of each image, why there is no result."""
        return list(chain.from_iterable(part.errors for part in self._parts))

    @property
    def variables(self) -> dict[str, Tensor]:
        """What is optimised, by name, a copy of the whole batch; "y" is always among it. Zero of images that
        have ended and given up their place.
        """
        names = self._parts[0].variables
        return _joined([{name: part.state()[name] for name in names} for part in self._parts])

    @property
    def best(self) -> Latents:
        """The hard-rounded iterate of the smallest loss so far, per image; the amortized one at first."""
        return self._latents(lambda part: part.best)

    @property
    def amortized(self) -> Latents:
        """What the encoder network gave, rounded."""
        return self._latents(lambda part: part.amortized)

    @property
    def best_loss(self) -> Tensor:
        """The smallest loss so far, bits + lmbda * 255^2 * SSE / 3; float64[batch]."""
        return torch.cat([part.best_loss for part in self._parts])

    @property
    def rounded(self) -> Latents:
        """The iterates as they are now, rounded; while no image has given up its place."""
        return self._latents(lambda part: part.rounded)

    def turn(self, recipe: Refined, step: int) -> None:
        """Goes on under another recipe that differs in lmbda, as if so many steps had been taken; while no
        image has given up its place. The best latents are sought anew.
        """
        self._recipe = recipe
        for part in self._parts:
            part.turn(recipe, step)

    def advance(self, steps: int) -> None:
        """Takes up to `steps` steps. An image that diverges ends, with an error in `errors`."""
        for _ in range(steps):
            if self.done:
                break
            for part in self._parts:
                part.advance()

    def looks(self) -> list[TracePoint]:
        """Rate and distortion of every image's rounded latents at its step; changes nothing."""
        return list(chain.from_iterable(part.looks() for part in self._parts))

    def state(self) -> dict[str, Tensor]:
        """Everything needed to go on later, on any device; see `restore`."""
        tensors = _joined([part.state() for part in self._parts]) | {"step": torch.tensor(self.step)}
        return {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Goes on from a `state()` of the same images, model and settings; further entries do no harm."""
        first = 0
        for part in self._parts:
            last = first + len(part.best_loss)
            part.restore(state, slice(first, last))
            first = last

    def _latents(self, which: Callable[[JointRefinement], Latents]) -> Latents:
        found = [which(part) for part in self._parts]
        return Latents(
            torch.cat([latents.y for latents in found]), torch.cat([latents.z for latents in found])
        )


def _joined(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Latents of images that differ in size lie in the upper left corners of tensors that all fit in."""
    joined = {}
    for name in parts[0]:
        tensors = [part[name].detach() for part in parts]
        if tensors[0].dim() == 4 and len({tensor.shape[2:] for tensor in tensors}) > 1:
            height, width = (max(tensor.shape[axis] for tensor in tensors) for axis in (2, 3))
            tensors = [fitted(tensor, height, width) for tensor in tensors]
        joined[name] = torch.cat(tensors)
    return joined
