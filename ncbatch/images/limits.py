"""Which images are refused for their size. Light, since a run's settings hold it."""

from __future__ import annotations

from dataclasses import dataclass

MAX_SIDE = 65535  # an .ncb stores each side in 16 bits

MAX_BYTES = 2**30  # more than a file of 100 million pixels takes in any format, 16 bits a sample included


@dataclass(frozen=True)
class ImageLimits:
    """What is refused from an image's header alone, before memory is spent on its pixels.

    Attributes:
        max_pixels: width times height.
    """

    max_pixels: int = 100_000_000


DEFAULT_LIMITS = ImageLimits()
