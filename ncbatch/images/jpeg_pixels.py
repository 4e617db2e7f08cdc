"""The pixels of a JPEG file, refused at whatever libjpeg warns of."""

from __future__ import annotations

import re

import numpy as np
import pyvips
import simplejpeg

from ncbatch.images import libvips
from ncbatch.images.checks import ImageError

_CODING = {1: "GRAY", 3: "RGB", 4: "CMYK"}
# A few bytes behind the last coded block are what some cameras pad with; more of them are lost blocks.
_PADDING = re.compile(r"Corrupt JPEG data: [1-4] extraneous bytes before marker 0xd9")
# In JFIF segments long enough to hold one; coded data hold no FF E0.
_OTHER_REVISION = re.compile(rb"(\xff\xe0(?:\0[\x10-\xff]|[^\0].)JFIF\0)[^\1]", re.DOTALL)


def jpeg_pixels(data: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    """Decodes a JPEG file, and refuses whatever libjpeg warns of.

    libvips could do it, but misses warnings in the last rows, where damage shows that shifted all blocks
    behind it. simplejpeg passes every warning on; libvips is asked where simplejpeg is not able, which is
    where TurboJPEG has no name for how the chroma is sampled.

    Args:
        data: the file.
        shape: height, width and channels, from its header.

    Returns:
        uint8[height, width, channels]: 1 channel is grey, 3 are RGB, 4 are CMYK with 255 for no ink.

    Raises:
        ImageError: the file is damaged.
        pyvips.Error: it is of a kind that neither library reads.
    """
    channels = shape[2]
    if channels not in _CODING:
        raise ImageError("unsupported", f"JPEG files of {channels} channels are not read")
    data = _OTHER_REVISION.sub(b"\\1\1", data)  # libjpeg warns of those, which harm no pixel
    try:
        return _decoded(data, shape)
    except ValueError as error:
        text = str(error)
    if text.startswith("Premature end of JPEG file"):
        raise ImageError("truncated", "the JPEG file ends before its end marker")
    if text.startswith("Corrupt JPEG data"):
        raise ImageError("unreadable", f"the JPEG file is damaged: {text.partition(': ')[2]}")
    try:
        found = libvips.pixels(libvips.opened(data, "jpegload"))
    except pyvips.Error:
        raise ImageError("unsupported", f"libjpeg cannot read this JPEG file: {text}") from None
    return 255 - found if channels == 4 else found


def _decoded(data: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    pixels = np.empty(shape, np.uint8)  # costs what is written to it; simplejpeg's own is all written to
    coding = _CODING[shape[2]]
    try:
        simplejpeg.decode_jpeg(data, coding, buffer=pixels)
    except ValueError as error:
        if not _PADDING.fullmatch(str(error)):
            raise
        simplejpeg.decode_jpeg(data, coding, buffer=pixels, strict=False)
    return pixels
