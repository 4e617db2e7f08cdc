"""Image files to RGB arrays and back.

Reading is strict: an image comes out whole or not at all. Embedded colour profiles are dropped, not applied:
the numbers that the file stores are the numbers that are compressed.
"""

from __future__ import annotations

import io
import logging
import struct
from collections.abc import Callable

import numpy as np
import pyvips
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile

from ncbatch.images import libvips
from ncbatch.images.checks import ImageError, check_size
from ncbatch.images.jpeg_pixels import jpeg_pixels
from ncbatch.images.limits import DEFAULT_LIMITS, ImageLimits
from ncbatch.images.png_damage import png_damage
from ncbatch.images.samples import Alpha, Samples, printed
from ncbatch.images.tiff_directory import exif_orientation
from ncbatch.images.tiff_reader import read_tiff

log = logging.getLogger(__name__)


def read_image(
    data: bytes,
    *,
    alpha: Alpha = "refuse",
    limits: ImageLimits = DEFAULT_LIMITS,
    name: str | None = None,
) -> np.ndarray:
    """Decodes a PNG, JPEG, WebP, TIFF, BMP or GIF file to RGB.

    The EXIF orientation is applied (that of XMP is not), and samples of 16 bits are rounded to 8. An alpha
    channel that is opaque everywhere is dropped; any other is refused, or composited over `alpha`. Embedded
    ICC profiles are ignored.

    Of a file that holds several images the first is read, in a TIFF the first of full resolution. JPEG and
    most of TIFF have no checksums: damage that leaves coded data well-formed is not noticed.

    Args:
        data: the file.
        alpha: what lies behind transparent pixels: "white", "black", or "refuse".
        limits: refuses larger images before memory is spent on them.
        name: under this name a warning is logged that says how many pages or frames were left out.

    Returns:
        uint8[height, width, 3], C-contiguous and writable.

    Raises:
        ImageError: for everything that the bytes can be blamed for; with a JPEG also whatever libjpeg warns
            of.
    """
    if not data:
        raise ImageError("empty", "the file holds no bytes")
    kind, read = _reader(data)
    try:
        samples = read(data, limits)
        pixels = samples.rgb(alpha)
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageError("too_large", "the image does not fit into memory") from error
    except pyvips.Error as error:
        reason = libvips.reason(error)
        if "unexpected end of" in reason.lower():
            raise ImageError("truncated", f"the {kind} file is cut off") from error
        raise ImageError("unsupported", f"the {kind} file cannot be read by libvips: {reason}") from error
    except Exception as error:
        # Hostile bytes make Pillow and NumPy raise whatever there is. None of it may end more than one image.
        what = f"the {kind} file cannot be read ({type(error).__name__}: {error})"
        raise ImageError("unsupported", what) from error
    if name is not None and samples.left_out:
        kept = "its first image of full resolution" if kind == "TIFF" else "its first frame"
        log.warning("%s: only %s is read, %d more left out", name, kept, samples.left_out)
    return pixels


def write_png(pixels: np.ndarray) -> bytes:
    """Encodes uint8[height, width, 3] in RGB as PNG, losslessly.

    Raises:
        ValueError: an array of another type or shape.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise ValueError(f"want uint8 [height, width, 3], got {pixels.dtype} {list(pixels.shape)}")
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG")
    return buffer.getvalue()


_Read = Callable[[bytes, ImageLimits], Samples]


def _reader(data: bytes) -> tuple[str, _Read]:
    """The name of the format that the first bytes state, and what reads it."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG", _png
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG", _jpeg
    if data.startswith((b"II\x2a\0", b"MM\0\x2a", b"II\x2b\0", b"MM\0\x2b")):
        return "TIFF", read_tiff
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "GIF", _gif
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WebP", _webp
    if data.startswith(b"BM"):
        return "BMP", _bmp
    if data[4:8] in (b"ftyp", b"jP  ", b"JXL "):
        raise ImageError("unsupported", "HEIF, AVIF, JPEG 2000 and JPEG XL images are not read")
    raise ImageError("unreadable", "the file is no PNG, JPEG, WebP, TIFF, BMP or GIF file")


def _by_libvips(data: bytes, loader: str, limits: ImageLimits) -> Samples:
    image = libvips.opened(data, loader)
    check_size(image.width, image.height, limits)
    channels = libvips.pixels(image)
    with_alpha = channels.shape[2] in (2, 4)
    return Samples(
        channels[..., :-1] if with_alpha else channels,
        channels[..., -1] if with_alpha else None,
        orientation=exif_orientation(libvips.blob(image, "exif-data")),
        left_out=libvips.number(image, "n-pages", 1) - 1,
    )


def _png(data: bytes, limits: ImageLimits) -> Samples:
    if len(data) >= 24:
        width, height = struct.unpack_from(">II", data, 16)
        check_size(width, height, limits)  # libpng has limits of its own
    try:
        return _by_libvips(data, "pngload", limits)
    except pyvips.Error as error:
        raise png_damage(data) from error


def _gif(data: bytes, limits: ImageLimits) -> Samples:
    if len(data) < 10:
        raise ImageError("truncated", "the GIF file stops inside its header")
    width, height = struct.unpack_from("<HH", data, 6)
    check_size(width, height, limits)
    samples = _by_libvips(data, "gifload", limits)
    if samples.colour.shape[:2] != (height, width):  # libvips takes wide canvases for damage
        raise ImageError("unsupported", "the first frame of the GIF file does not fill its canvas")
    return samples


def _webp(data: bytes, limits: ImageLimits) -> Samples:
    if len(data) < 12 + 8 or struct.unpack_from("<I", data, 4)[0] + 8 > len(data):
        raise ImageError("truncated", "the WebP file is shorter than its header says")
    return _by_libvips(data, "webpload", limits)


def _jpeg(data: bytes, limits: ImageLimits) -> Samples:
    try:
        header = libvips.opened(data, "jpegload")
    except pyvips.Error as error:
        if b"\xff\xd9" in data:
            raise
        raise ImageError("truncated", "the JPEG file ends before its end marker") from error
    check_size(header.width, header.height, limits)
    colour = jpeg_pixels(data, (header.height, header.width, header.bands))
    orientation = exif_orientation(libvips.blob(header, "exif-data"))
    return Samples(printed(255 - colour) if header.bands == 4 else colour, orientation=orientation)


def _bmp(data: bytes, limits: ImageLimits) -> Samples:
    try:
        image = BmpImageFile(io.BytesIO(data))
        check_size(*image.size, limits)
        image.load()
    except ImageError:
        raise
    except Exception as error:
        if len(data) < 6 or struct.unpack_from("<I", data, 2)[0] > len(data):
            raise ImageError("truncated", "the BMP file is shorter than its header says") from error
        raise
    colour = np.asarray(image.convert("RGB"))
    alpha = np.asarray(image)[..., 3] if image.mode == "RGBA" else None
    # Many programs leave the fourth byte at zero throughout: then it was never meant as alpha.
    return Samples(colour, alpha if alpha is not None and alpha.any() else None)
