"""The alpha plane that an `.ncb` file may carry behind its image, for `ncb_decoder.py`; Pillow decodes it.

pixels = with_alpha(decoder.decode(data), data)  # uint8[height, width, 4] where there is one
"""

from __future__ import annotations

import io
import sys
import zlib

import numpy as np
from numpy.typing import NDArray

_VERSION = 3  # of files with a tail
_ALPHA = 5  # kind of an item of the tail
_CHECKSUM = 4


class AlphaError(OSError):
    """The alpha plane is damaged."""


def alpha_file(data: bytes) -> bytes:
    """The WebP or PNG file with the alpha plane, in a file that a decoder took; empty where there is none.

    Raises:
        AlphaError: what stands behind the image is damaged.
    """
    if data[3] != _VERSION:
        return b""
    position = 13
    for _ in range(3):  # width, height, words of the payload
        count, position = _leb128(data, position)
    items, checksum = data[position + 4 * count + _CHECKSUM : -_CHECKSUM], data[-_CHECKSUM:]
    if zlib.crc32(items).to_bytes(_CHECKSUM, "little") != checksum:
        raise AlphaError("what the file carries beside the image is damaged")
    position = 0
    while position < len(items):
        kind = items[position]
        length, start = _leb128(items, position + 1)
        position = start + length
        if kind == _ALPHA:
            return items[start:position]
    return b""


def _leb128(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for group, byte in enumerate(data[position : position + 5]):
        value |= (byte & 0x7F) << (7 * group)
        if byte < 0x80:
            return value, position + group + 1
    raise AlphaError("what the file carries beside the image is damaged")


def with_alpha(pixels: NDArray[np.uint8], data: bytes) -> NDArray[np.uint8]:
    """The image of a file with its alpha plane: uint8[height, width, 4] if it has one, and Pillow is there.

    Where Pillow is missing, a warning on standard error says that the plane is left away.

    Args:
        pixels: uint8[height, width, 3], the image.
        data: the file that they were decoded from.

    Raises:
        AlphaError: the plane is damaged.
    """
    plane = alpha_file(data)
    if not plane:
        return pixels
    try:
        from PIL import Image
    except ImportError:
        sys.stderr.write("warning: the file's alpha channel is left away; install Pillow to get it\n")
        return pixels
    with Image.open(io.BytesIO(plane), formats=["WEBP", "PNG"]) as image:
        if image.size != pixels.shape[1::-1]:
            raise AlphaError("the alpha plane is not of the image's size; the file is damaged")
        return np.dstack([pixels, np.asarray(image.convert("RGB"))[..., 1]])
