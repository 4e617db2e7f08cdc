"""A random sample of a run's units."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping

_EVERY = 8
"""Of so many units of a large run, one is drawn."""
_IMAGES, _UNITS = 200, 8
"""Of a sample by which a run may be judged: images of one unit are alike."""


def is_large(images: int, units: int) -> bool:
    """Whether a sample of so many images from so many units says something about the whole."""
    return images >= _IMAGES and units >= _UNITS


class Draw:
    """Units drawn at random, to judge a run by: those that come first, the longest, are not like the others.

    Attributes:
        drawn: those that have been.
    """

    def __init__(self, units: Mapping[str, Collection[str]]) -> None:
        self._images = {unit: len(images) for unit, images in units.items()}
        self._left = sorted(units)
        random.Random(len(units)).shuffle(self._left)
        self.drawn: set[str] = set()
        self._drawn_images = 0

    def next(self, calls: int, waiting: Collection[str]) -> str | None:
        """A unit that waits, at first always, and then every eighth time; or None."""
        if is_large(self._drawn_images, len(self.drawn)) and calls % _EVERY:
            return None
        while self._left:
            unit = self._left.pop()
            if unit in waiting:
                self.drawn.add(unit)
                self._drawn_images += self._images[unit]
                return unit
        return None
