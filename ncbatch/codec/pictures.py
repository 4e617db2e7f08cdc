"""Picture files to RGB arrays and back.

Reading is strict: a picture comes out whole or not at all. Embedded colour profiles are dropped, not applied:
the numbers that the file stores are the numbers that are compressed.
"""

from __future__ import annotations

import io
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import jpeg_factory
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from ncbatch.codec.limits import DEFAULT_LIMITS, MAX_SIDE, PictureLimits
from ncbatch.codec.picture_checks import (
    ErrorClass,
    PictureError,
    check_png,
    check_size,
    check_tiff,
    declared_size,
    tiff_bits,
)

__all__ = ["MAX_SIDE", "Alpha", "ErrorClass", "PictureError", "PictureLimits", "read_picture", "write_png"]

Alpha = Literal["refuse", "white", "black"]


def read_picture(
    data: bytes,
    *,
    alpha: Alpha = "refuse",
    limits: PictureLimits = DEFAULT_LIMITS,
) -> np.ndarray:
    """Decode a PNG, JPEG, WebP, TIFF, BMP or GIF (its first frame) to RGB.

    Returns uint8 `[height, width, 3]`, C-contiguous and writable, with the EXIF orientation applied. 16 bit
    samples are rounded to 8. An alpha channel that is opaque everywhere is dropped; any other one is refused,
    or composited over `alpha` = "white" or "black". Embedded ICC profiles are ignored.

    Raises PictureError for everything that the bytes can be blamed for. One kind of damage cannot be seen: a
    JPEG whose coded data are corrupt but go on to an end marker, because libjpeg only warns and Pillow does
    not pass that on.
    """
    if not data:
        raise PictureError("empty", "the file holds no bytes")
    try:
        return _decode(data, alpha, limits)
    except PictureError:
        raise
    except MemoryError as error:
        raise PictureError("too_large", "the picture does not fit into memory") from error
    except Exception as error:
        # Pillow's plugins parse hostile bytes in Python: besides OSError they raise SyntaxError, ValueError,
        # struct.error, KeyError, zlib.error, ... None of them may end more than this one picture.
        error_class = _classify(error)
        raise PictureError(error_class, f"{error_class} picture: {str(error) or repr(error)}") from error


def write_png(pixels: np.ndarray) -> bytes:
    """Encode uint8 `[height, width, 3]` RGB as PNG, losslessly. Raises ValueError for any other array."""
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise ValueError(f"want uint8 [height, width, 3], got {pixels.dtype} {list(pixels.shape)}")
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG")
    return buffer.getvalue()


@dataclass
class _Samples:
    """Decoded samples, uint8 or uint16: colour `[height, width, 1 or 3]`, opacity `[height, width]`."""

    colour: np.ndarray
    opacity: np.ndarray | None = None
    premultiplied: bool = False


def _decode(data: bytes, alpha: Alpha, limits: PictureLimits) -> np.ndarray:
    check_size(declared_size(data), limits)
    picture = _open(data)
    check_size(picture.size, limits)
    if isinstance(picture, PngImageFile):
        check_png(data)
    elif isinstance(picture, TiffImageFile):
        check_tiff(data, picture)
    samples = _samples(data, picture)
    colour = _flatten(samples, alpha)
    if colour.dtype == np.uint16:
        colour = _TO_8_BITS[colour]
    upright = _UPRIGHT[_orientation(picture)](colour)
    return np.array(np.broadcast_to(upright, (*upright.shape[:2], 3)), order="C")


# v * 255 / 65535 to the nearest: Pillow's conversions keep the high byte, which is half a level too dark.
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


def _orientation(picture: ImageFile) -> int:
    # A TIFF has been turned by Pillow while it was loaded, which also removes the tag.
    if isinstance(picture, TiffImageFile):
        return 1
    try:
        value = picture.getexif().get(0x0112, 1)
    except (OSError, SyntaxError, ValueError, TypeError, LookupError, struct.error):
        return 1  # a broken EXIF block does not make the pixels worse
    return value if isinstance(value, int) and value in _UPRIGHT else 1


def _open(data: bytes) -> ImageFile:
    """Parse the headers.

    Pillow's classes are called directly. `Image.open` would put its process-wide pixel limit (a warning,
    later an error) before ours, and hide every plugin's message behind "cannot identify image file".
    """
    file = io.BytesIO(data)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return PngImageFile(file)
    if data.startswith(b"\xff\xd8\xff"):
        return jpeg_factory(file)
    if data.startswith((b"II\x2a\0", b"MM\0\x2a", b"II\x2b\0", b"MM\0\x2b")):
        return TiffImageFile(file)
    if data.startswith((b"GIF87a", b"GIF89a")):
        return GifImageFile(file)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        if struct.unpack_from("<I", data, 4)[0] + 8 > len(data):
            raise PictureError("truncated", "the WebP file is shorter than its header says")
        return WebPImageFile(file)
    if data.startswith(b"BM"):
        return BmpImageFile(file)
    if data[4:8] in (b"ftyp", b"jP  ", b"JXL "):
        raise PictureError("unsupported", "HEIF, AVIF, JPEG 2000 and JPEG XL pictures are not read")
    raise PictureError("unreadable", "this is no PNG, JPEG, WebP, TIFF, BMP or GIF file")


def _classify(error: Exception) -> ErrorClass:
    if isinstance(error, Image.DecompressionBombError):
        return "too_large"
    text = str(error).lower()
    # Pillow wraps what its header parsers raise in SyntaxError.
    cause = error.__cause__ or error
    if any(words in text for words in ("unsupported", "not supported", "cannot handle", "unknown pixel")):
        return "unsupported"
    if isinstance(cause, EOFError | IndexError | struct.error):
        return "truncated"
    if any(words in text for words in ("truncat", "incomplete", "not enough", "no more images")):
        return "truncated"
    return "unsupported" if isinstance(cause, KeyError) else "unreadable"


def _samples(data: bytes, picture: ImageFile) -> _Samples:
    raw_mode = _raw_mode(picture)
    if raw_mode.endswith((";16B", ";16L", ";16N")) and picture.mode in ("RGB", "RGBA", "CMYK"):
        return _deep_samples(data, picture, raw_mode)
    picture.load()
    if picture.mode in ("I;16", "I;16B", "I;16L"):
        return _deep_grey(picture)
    key = picture.info.get("transparency")
    if picture.mode in ("LA", "La", "PA", "RGBA") or (picture.mode == "P" and key is not None):
        straight = picture.convert("LA") if picture.mode == "La" else picture
        rgba = np.asarray(straight.convert("RGBA"))
        return _Samples(rgba[..., :3], rgba[..., 3])
    if picture.mode in ("1", "L"):
        grey = np.asarray(picture.convert("L"))
        # A PNG states the key in the samples of the file, of 2, 4 or 8 bits; Pillow has scaled them to 8.
        if key is not None and picture.mode == "L" and isinstance(picture, PngImageFile):
            key = key * 255 // (2 ** data[24] - 1)
        return _Samples(grey[..., None], _keyed(grey[..., None], key))
    if picture.mode not in ("RGB", "P", "CMYK", "YCbCr"):
        raise PictureError("unsupported", f"pictures of mode {picture.mode} are not read")
    rgb = np.asarray(picture.convert("RGB"))
    return _Samples(rgb, _keyed(rgb, key))


def _raw_mode(picture: ImageFile) -> str:
    args = picture.tile[0].args if picture.tile else None
    first = args[0] if isinstance(args, tuple) and args else args
    return first if isinstance(first, str) else ""


def _deep_grey(picture: ImageFile) -> _Samples:
    grey: np.ndarray = np.asarray(picture).astype(np.uint16)
    if isinstance(picture, TiffImageFile):
        if tiff_bits(picture) == 12:
            grey = (grey << 4) | (grey >> 8)
        if picture.tag_v2.get(262) == 0:
            grey = 65535 - grey  # white is zero; Pillow inverts that for 8 bits only
    return _Samples(grey[..., None], _keyed(grey[..., None], picture.info.get("transparency")))


def _deep_samples(data: bytes, picture: ImageFile, raw_mode: str) -> _Samples:
    """16 bit colour, of which Pillow gives out the high bytes only: unpack the file twice, swapped."""
    if raw_mode == "LA;16B":  # grey and alpha: four bytes a pixel, as they stand
        pairs = _unpacked(data, "RGBA").reshape(picture.height, picture.width, 2, 2).astype(np.uint16)
        both = pairs[..., 0] << 8 | pairs[..., 1]
        return _Samples(both[..., :1], both[..., 1])
    high_mode = raw_mode.replace("RGBa", "RGBA")
    low_mode = high_mode[:-1] + _OTHER_ORDER[high_mode[-1]]
    deep = _unpacked(data, high_mode).astype(np.uint16) << 8 | _unpacked(data, low_mode)
    if picture.mode == "CMYK":
        inks = _TO_8_BITS[deep]
        printed = Image.frombytes("CMYK", (inks.shape[1], inks.shape[0]), inks.tobytes())
        return _Samples(np.asarray(printed.convert("RGB")))
    if picture.mode == "RGBA":
        return _Samples(deep[..., :3], deep[..., 3], premultiplied=raw_mode.startswith("RGBa"))
    return _Samples(deep, _keyed(deep, picture.info.get("transparency")))


_OTHER_ORDER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}


def _unpacked(data: bytes, raw_mode: str) -> np.ndarray:
    """Decode again, reading the file's samples as `raw_mode`."""
    picture = _open(data)
    picture.tile = [
        tile._replace(args=raw_mode if isinstance(tile.args, str) else (raw_mode, *(tile.args or ())[1:]))
        for tile in picture.tile
    ]
    picture.load()
    return np.asarray(picture)


def _keyed(colour: np.ndarray, key: int | tuple[int, ...] | None) -> np.ndarray | None:
    """Opacity `[height, width]` of a picture in which one colour stands for "transparent"."""
    if key is None:
        return None
    opaque = np.array(np.iinfo(colour.dtype).max, dtype=colour.dtype)
    return np.where((colour == np.array(key)).all(axis=-1), np.zeros_like(opaque), opaque)


def _flatten(samples: _Samples, alpha: Alpha) -> np.ndarray:
    opacity, top = samples.opacity, np.iinfo(samples.colour.dtype).max
    if opacity is None or bool((opacity == top).all()):
        return samples.colour
    if alpha == "refuse":
        raise PictureError("transparent", "the picture has transparent pixels")
    weight = opacity[..., None].astype(np.uint32)
    own: np.ndarray = samples.colour.astype(np.uint32)
    behind = top - weight if alpha == "white" else np.zeros_like(weight)  # what shows through
    if not samples.premultiplied:
        own = (own * weight + top // 2) // top  # 65535 * 65535 + 32767 still fits
    return np.minimum(own + behind, top).astype(samples.colour.dtype)
