"""How an image file becomes pixels, as a user decides it. Light, since a run's settings hold it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from ncbatch.images.limits import DEFAULT_LIMITS, ImageLimits

Alpha = Literal["refuse", "keep", "white", "black"]
Color = Literal["convert", "keep", "ignore"]
Metadata = Literal["keep", "strip"]
Frames = Literal["first", "refuse"]


@dataclass(frozen=True)
class Reading:
    """All that the pixels of an image depend on, and what is carried along with them.

    Attributes:
        alpha: what lies behind transparent pixels; "keep": nothing, the alpha plane is carried along;
            "refuse": an image that has any is an error.
        color: what becomes of a colour profile. "convert": the pixels become sRGB by it; "keep": the pixels
            stay, and it is carried along; "ignore": the pixels stay, and it is dropped.
        metadata: whether EXIF and XMP are carried along.
        frames: which are read of a file with several frames or pages; "refuse": such a file is an error.
        carries: whether what is made of the pixels has room for anything beside them; without it, nothing is
            carried.
        limits: refuses larger images before memory is spent on them.
    """

    alpha: Alpha = "refuse"
    color: Color = "convert"
    metadata: Metadata = "strip"
    frames: Frames = "first"
    carries: bool = True
    limits: ImageLimits = DEFAULT_LIMITS

    @property
    def whole(self) -> Reading:
        """The same with everything carried that can be: what pixels depend on, and nothing else."""
        return replace(self, metadata="keep", carries=True)
