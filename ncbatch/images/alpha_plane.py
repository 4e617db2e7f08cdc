"""Alpha planes: coded without loss, and the colours that are put where nothing is seen of an image."""

from __future__ import annotations

import io

import numpy as np
import pyvips
from numpy.typing import NDArray
from PIL import Image

from ncbatch.images import libvips
from ncbatch.images.checks import ImageError
from ncbatch.images.pixels import Pixels

Plane = NDArray[np.uint8]
"""uint8[height, width]: 0 is fully transparent, 255 opaque."""

_WEBP_SIDE = 16383
_ROWS = 256  # that are filled at once; even
_NOTHING_SEEN = 128


def coded_plane(plane: Plane) -> bytes:
    """An alpha plane as a lossless WebP file, or as a PNG file where a side is too long for WebP.

    Raises:
        ImageError: neither gives it back as it was.
    """
    coders = [_webp, _png] if max(plane.shape) <= _WEBP_SIDE else [_png]
    for coder in coders:
        data = coder(plane)
        if np.array_equal(plane_of(data, plane.shape[1], plane.shape[0]), plane):
            return data
    raise ImageError("unsupported", "the alpha channel cannot be coded without loss")


def _webp(plane: Plane) -> bytes:
    file = io.BytesIO()
    # As grey in RGB: the differences to green, which WebP codes, are zeros.
    Image.fromarray(plane).convert("RGB").save(file, "WEBP", lossless=True, method=4)
    return file.getvalue()


def _png(plane: Plane) -> bytes:
    file = io.BytesIO()
    Image.fromarray(plane).save(file, "PNG", optimize=True)
    return file.getvalue()


def plane_of(data: bytes, width: int, height: int) -> Plane:
    """The alpha plane in a file of `coded_plane`.

    Nothing is decoded before the file says that it has the right size.

    Args:
        data: the file.
        width: of the image in pixels.
        height: likewise.

    Raises:
        ImageError: it is damaged, or of another size or kind.
    """
    loader = "pngload" if data.startswith(b"\x89PNG") else "webpload"
    try:
        image = libvips.opened(data, loader)
        if (image.width, image.height) != (width, height):
            size = f"{image.width} x {image.height} pixels"
            raise ImageError("unreadable", f"the alpha plane has {size}, and the image {width} x {height}")
        channels = libvips.pixels(image)
    except pyvips.Error as error:
        raise ImageError("unreadable", f"the alpha plane is damaged: {libvips.reason(error)}") from error
    if channels.dtype != np.uint8:
        raise ImageError("unsupported", "the alpha plane has more than 8 bits a sample")
    return np.ascontiguousarray(channels[..., 0])


def filled(pixels: Pixels, plane: Plane) -> Pixels:
    """An image with other colours where it is fully transparent: smooth ones, which cost next to no bits.

    They go over from one visible colour to the next, by push-pull interpolation (Gortler et al. 1996): each
    level of a pyramid has the mean of the visible colours below, and gaps take that of the next level.

    Args:
        pixels: uint8[height, width, 3]; is changed.
        plane: of the same height and width.

    Returns:
        `pixels`.
    """
    if plane.all():
        return pixels
    if not plane.any():
        pixels[:] = _NOTHING_SEEN
        return pixels
    height = len(pixels)
    tops = range(0, height, _ROWS)  # of parts: in floats, a large image would take a multiple of its memory
    sums = np.concatenate(
        [_halved(_seen(pixels[top : top + _ROWS], plane[top : top + _ROWS])) for top in tops]
    )
    levels = []
    while max(sums.shape[:2]) > 1:
        levels.append(sums)
        sums = _halved(sums)
    colour = sums[..., :3]
    for sums in reversed(levels):
        behind = _doubled(colour)[: sums.shape[0], : sums.shape[1]]
        colour = sums[..., :3] + (1 - sums[..., 3:]) * behind
    for top in tops:
        part, hidden = pixels[top : top + _ROWS], plane[top : top + _ROWS] == 0
        first = max(top // 2 - 1, 0)
        behind = _doubled(colour[first : top // 2 + _ROWS // 2 + 1])[top - 2 * first :]
        part[hidden] = np.rint(behind[: len(part), : part.shape[1]][hidden]).clip(0, 255)
    return pixels


def _seen(pixels: Pixels, plane: Plane) -> np.ndarray:
    """float32[height, width, 4]: the visible colours, 0 elsewhere, and whether they are visible."""
    seen = plane > 0
    return np.dstack([pixels * seen[..., None], seen]).astype(np.float32)


def _halved(sums: np.ndarray) -> np.ndarray:
    """Of each 2x2 samples, the mean colour of those that are there, times its weight, and the weight: 1 where
    one is there.
    """
    height, width = sums.shape[:2]
    sums = np.pad(sums, ((0, height % 2), (0, width % 2), (0, 0)))
    total = sums[::2, ::2] + sums[1::2, ::2] + sums[::2, 1::2] + sums[1::2, 1::2]
    return np.asarray(total / np.maximum(total[..., 3:], 1))


def _doubled(colour: np.ndarray) -> np.ndarray:
    """Twice the height and the width, by linear interpolation."""
    for _ in range(2):
        before = np.concatenate([colour[:1], colour[:-1]])
        after = np.concatenate([colour[1:], colour[-1:]])
        both = np.stack([0.75 * colour + 0.25 * before, 0.75 * colour + 0.25 * after], axis=1)
        colour = both.reshape(-1, *colour.shape[1:]).swapaxes(0, 1)
    return colour
