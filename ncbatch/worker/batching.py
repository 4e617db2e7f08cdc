"""How many images of one canvas are refined together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch

from ncbatch.codec.recipe import BaseRecipe, RefinedRecipe
from ncbatch.codec.refinement.canvas import Shape

_GAIN = 0.05
"""A larger batch has to make an image cheaper by this share; less is noise, and not worth the memory."""

_LARGEST = 256
_TRIES = 2
"""Measurements of a size before it counts as no better: what disturbs one makes it longer, never shorter."""


class Batching(Protocol):
    """Decides on the sizes of batches. Results do not depend on them. Shapes are canvases."""

    def size(self, shape: Shape) -> int:
        """How many images of a shape are to go together."""

    def took(self, shape: Shape, images: int, seconds: float) -> None:
        """So many images took so long together."""

    def settled(self, shape: Shape) -> bool:
        """Whether the size stays as it is. Until then batches are measured, and keep to their images."""

    def too_large(self, shape: Shape, images: int) -> None:
        """Memory ran out for so many images."""


class FixedBatches:
    """Batches of the size that a person asked for; halved for good when memory runs out."""

    def __init__(self, images: int) -> None:
        self._images = images

    def size(self, shape: Shape) -> int:
        """See `Batching`."""
        return self._images

    def took(self, shape: Shape, images: int, seconds: float) -> None:
        """Changes nothing."""

    def settled(self, shape: Shape) -> bool:
        """See `Batching`."""
        return True

    def too_large(self, shape: Shape, images: int) -> None:
        """Halves what did not fit."""
        self._images = min(self._images, max(images // 2, 1))


def new_batching(images: int | None, device: torch.device, recipe: BaseRecipe) -> Batching:
    """How many of a variant's images go together.

    Args:
        images: that a person asked for.
        device: that they are refined on.
        recipe: of the variant.
    """
    if isinstance(recipe, RefinedRecipe) and recipe.target is not None:
        return FixedBatches(1)  # each is at steps, and by models, of its own
    if images is not None:
        return FixedBatches(images)
    # On a CPU every image is computed in tensors of its own; see `codec.refinement.batch`.
    if device.type == "cpu" or not recipe.total_steps:
        return FixedBatches(1)
    return GrowingBatches()


@dataclass
class _Trial:
    """What is known of one shape. best: by size, the smallest seconds per image that were measured."""

    size: int
    best: dict[int, float] = field(default_factory=dict)
    tries: int = 0
    settled: bool = False


class GrowingBatches:
    """Batches that double as long as that makes an image cheaper, each canvas for itself.

    A shape begins with as many pixels as proved good for another, so that the hundredth shape of a mixed
    corpus does not begin with one image. What was too much for memory of one shape, in pixels, is too much of
    any.
    """

    def __init__(self) -> None:
        self._trials: dict[Shape, _Trial] = {}
        self._good_pixels = 0
        self._most_pixels: int | None = None

    def size(self, shape: Shape) -> int:
        """See `Batching`."""
        return min(self._trial(shape).size, self._limit(shape))

    def took(self, shape: Shape, images: int, seconds: float) -> None:
        """Learns from a batch of the size that was asked for; of others, there are too few to compare."""
        trial = self._trial(shape)
        if trial.settled or images != self.size(shape):
            return
        each = seconds / images
        known = trial.best.get(images)
        trial.best[images] = each if known is None else min(each, known)
        trial.tries += 1
        smaller = [best for size, best in trial.best.items() if size < images]
        if not smaller or trial.best[images] <= (1 - _GAIN) * min(smaller):
            self._good_pixels = max(self._good_pixels, images * _area(shape))
            if min(2 * images, _LARGEST) <= self._limit(shape) and images < _LARGEST:
                trial.size, trial.tries = 2 * images, 0
            else:
                self._settle(trial)
        elif trial.tries >= _TRIES:
            self._settle(trial)

    def settled(self, shape: Shape) -> bool:
        """See `Batching`."""
        return self._trial(shape).settled

    def too_large(self, shape: Shape, images: int) -> None:
        """See `Batching`."""
        pixels = max(images // 2, 1) * _area(shape)
        self._most_pixels = pixels if self._most_pixels is None else min(pixels, self._most_pixels)
        self._good_pixels = min(self._good_pixels, self._most_pixels)

    def _trial(self, shape: Shape) -> _Trial:
        if shape not in self._trials:
            first = _power_of_two(self._good_pixels // _area(shape))
            self._trials[shape] = _Trial(min(first, _LARGEST))
        return self._trials[shape]

    def _limit(self, shape: Shape) -> int:
        if self._most_pixels is None:
            return _LARGEST
        return _power_of_two(self._most_pixels // _area(shape))

    @staticmethod
    def _settle(trial: _Trial) -> None:
        """On the smallest size that is as good as any."""
        cheapest = min(trial.best.values())
        trial.size = min(size for size, best in trial.best.items() if best * (1 - _GAIN) <= cheapest)
        trial.settled = True


def _area(shape: Shape) -> int:
    return shape[0] * shape[1]


def _power_of_two(number: int) -> int:
    """The largest power of two up to a number, at least 1."""
    return 1 << max(number.bit_length() - 1, 0)
