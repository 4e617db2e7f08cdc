"""Samples as an image file stores them, and how they become upright, opaque RGB of 8 bits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from ncbatch.images.carried import Carried
from ncbatch.images.checks import ImageError
from ncbatch.images.reading import Alpha


@dataclass
class Samples:
    """Decoded samples.

    Attributes:
        colour: uint8 or uint16[height, width, 1, 3 or 4]: grey, RGB, or CMYK with 0 for no ink.
        opacity: of the same type, [height, width]; None where the file has no alpha.
        premultiplied: whether the colour is multiplied by the opacity already.
        orientation: as EXIF numbers them, 1 to 8.
        left_out: how many pages or frames the file holds beside this one.
        found: what the file says beside them, as it says it.
        lost: what else is in the file, and is not read, in words.
    """

    colour: np.ndarray
    opacity: np.ndarray | None = None
    premultiplied: bool = False
    orientation: int = 1
    left_out: int = 0
    found: Carried = field(default_factory=Carried)
    lost: tuple[str, ...] = ()

    @property
    def is_opaque(self) -> bool:
        """Whether nothing shines through any pixel."""
        return self.opacity is None or bool((self.opacity == np.iinfo(self.opacity.dtype).max).all())

    def rgb(self, alpha: Alpha) -> np.ndarray:
        """The colours of the image, upright: uint8[height, width, 3], C-contiguous and its own memory.

        The colour must be grey or RGB.

        Raises:
            ImageError: there are transparent pixels, and `alpha` does not say what lies behind them.
        """
        colour = to_8_bits(self.flattened(alpha))
        upright = _UPRIGHT[self.orientation](colour)
        return np.array(np.broadcast_to(upright, (*upright.shape[:2], 3)), order="C")

    def flattened(self, alpha: Alpha) -> np.ndarray:
        """The colour in front of what `alpha` says; with "keep" as it is, not multiplied by the opacity.

        Errors as of `rgb`.
        """
        opacity, top = self.opacity, np.iinfo(self.colour.dtype).max
        if opacity is None or self.is_opaque:
            return self.colour
        if alpha == "keep":
            return self._straight(opacity)
        if alpha == "refuse":
            raise ImageError("transparent", "the image has transparent pixels")
        weight = opacity[..., None].astype(np.uint32)
        own: np.ndarray = self.colour.astype(np.uint32)
        behind = top - weight if alpha == "white" else np.zeros_like(weight)  # what shows through
        if not self.premultiplied:
            own = (own * weight + top // 2) // top  # 65535 * 65535 + 32767 still fits
        return np.minimum(own + behind, top).astype(self.colour.dtype)

    def _straight(self, opacity: np.ndarray) -> np.ndarray:
        """The colour that is not multiplied by the opacity."""
        if not self.premultiplied:
            return self.colour
        top, weight = np.iinfo(self.colour.dtype).max, np.maximum(opacity, 1)[..., None].astype(np.uint32)
        straight = (self.colour.astype(np.uint32) * top + weight // 2) // weight
        return np.minimum(straight, top).astype(self.colour.dtype)

    def plane(self) -> np.ndarray:
        """The opacity, upright: uint8[height, width]. The file must have an alpha channel."""
        assert self.opacity is not None
        return np.ascontiguousarray(_UPRIGHT[self.orientation](to_8_bits(self.opacity)))


def to_8_bits(samples: np.ndarray) -> np.ndarray:
    """Samples of 16 bits to 8 bits, v * 255 / 65535 to the nearest; samples of 8 bits as they are.

    The high byte alone would be half a level too dark.
    """
    return _TO_8_BITS[samples] if samples.dtype == np.uint16 else samples


def printed(inks: np.ndarray) -> np.ndarray:
    """CMYK, uint8 or uint16[height, width, 4] with 0 for no ink, to uint8 RGB without a colour profile."""
    inks = np.ascontiguousarray(to_8_bits(inks))
    page = Image.frombytes("CMYK", (inks.shape[1], inks.shape[0]), inks.tobytes())
    return np.asarray(page.convert("RGB"))


_TO_8_BITS = ((np.arange(65536) + 128) // 257).astype(np.uint8)

# EXIF orientation -> what turns the stored rows and columns upright.
_UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: a.swapaxes(0, 1)[::-1],
}
