"""Why an image file is refused, and in which words."""

from __future__ import annotations

from typing import Literal

from ncbatch.errors import NcbatchError
from ncbatch.images.limits import MAX_SIDE, ImageLimits

ErrorClass = Literal[
    "empty", "unreadable", "truncated", "unsupported", "too_large", "transparent", "several_frames"
]  # fmt: skip

_FIX: dict[ErrorClass, str] = {
    "empty": "upload the file again",
    "unreadable": "open and save the image again, or leave it out",
    "truncated": "copy the file again from its source",
    "unsupported": "convert it to an 8 or 16 bit RGB or grey PNG",
    "too_large": "scale or cut the image",
    "transparent": "give --alpha keep, or choose what lies behind it with --alpha white or --alpha black",
    "several_frames": "take its frames apart, or encode the first one with --frames first",
}


class ImageError(NcbatchError):
    """An image cannot be read.

    Attributes:
        error_class: which kind of trouble it is.
        what: what is wrong, without the remedy.
        fix: the remedy, where it is not the usual one of the class.
    """

    def __init__(self, error_class: ErrorClass, what: str, fix: str | None = None) -> None:
        super().__init__(error_class, what, fix)  # all, or it could not be unpickled in another process
        self.error_class: ErrorClass = error_class
        self.what = what
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.what}; {self.fix or _FIX[self.error_class]}"


def check_size(width: int, height: int, limits: ImageLimits) -> None:
    """Checks that an image of this size, in pixels, is within the limits.

    Raises:
        ImageError: it is not.
    """
    if max(width, height) > MAX_SIDE:
        raise ImageError("too_large", f"{width} x {height} pixels: no side may exceed {MAX_SIDE}")
    if width * height > limits.max_pixels:
        raise ImageError(
            "too_large",
            f"{width} x {height} pixels: the limit is {limits.max_pixels} in all",
            "scale or cut the image, or raise --max-pixels where there is memory for it",
        )
