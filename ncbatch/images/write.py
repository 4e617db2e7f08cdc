"""Images to PNG files."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ncbatch.images.carried import Carried
from ncbatch.images.pixels import Pixels

_XMP = "XML:com.adobe.xmp"
_NOTHING = Carried()


def write_png(pixels: Pixels, carried: Carried = _NOTHING) -> bytes:
    """Encodes uint8[height, width, 3] in RGB, or [height, width, 4] in RGBA, as PNG, losslessly.

    Args:
        pixels: the image.
        carried: goes into the file as well, but for an alpha plane, which is with the pixels.

    Raises:
        ValueError: an array of another type or shape.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (3, 4) or 0 in pixels.shape:
        raise ValueError(f"want uint8 [height, width, 3 or 4], got {pixels.dtype} {list(pixels.shape)}")
    chunks = PngInfo()
    if carried.xmp:
        chunks.add_itxt(_XMP, carried.xmp)
    if carried.cicp:
        chunks.add(b"cICP", carried.cicp)
    beside = {name: value for name, value in (("icc_profile", carried.icc), ("exif", carried.exif)) if value}
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG", pnginfo=chunks, **beside)
    return buffer.getvalue()
