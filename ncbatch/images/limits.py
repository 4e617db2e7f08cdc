"""What is refused of an image by its size; light, since a run's settings hold it."""

from __future__ import annotations

from dataclasses import dataclass

MAX_SIDE = 65535  # an .ncb stores each side in 16 bits


@dataclass(frozen=True)
class ImageLimits:
    """What is refused from an image's header alone, before memory is spent on its pixels."""

    max_pixels: int = 100_000_000


DEFAULT_LIMITS = ImageLimits()
