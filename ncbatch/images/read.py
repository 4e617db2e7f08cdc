"""Image files to RGB arrays.

Reading is strict: an image comes out whole or not at all.
"""

from __future__ import annotations

import io
import logging
import struct
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pyvips
from PIL.BmpImagePlugin import BmpImageFile

from ncbatch.images import libvips
from ncbatch.images.boxes import kind_of
from ncbatch.images.by_pillow import reader_of
from ncbatch.images.checks import ImageError, check_size
from ncbatch.images.finished import ReadImage, finished
from ncbatch.images.jpeg_pixels import jpeg_pixels
from ncbatch.images.limits import DEFAULT_LIMITS, ImageLimits
from ncbatch.images.pixels import Pixels
from ncbatch.images.png_chunks import cicp_and_frames
from ncbatch.images.png_damage import png_damage
from ncbatch.images.reading import Alpha, Reading
from ncbatch.images.samples import Samples
from ncbatch.images.tiff_directory import exif_orientation
from ncbatch.images.tiff_reader import read_tiff

log = logging.getLogger(__name__)


def read_image(
    data: bytes,
    *,
    alpha: Alpha = "refuse",
    limits: ImageLimits = DEFAULT_LIMITS,
    name: str | None = None,
) -> Pixels:
    """The pixels of an image file as sRGB; arguments and errors as of `read_file`.

    Returns:
        uint8[height, width, 3], C-contiguous and writable.
    """
    return read_file(data, Reading(alpha=alpha, limits=limits), name=name).pixels


def read_file(data: bytes, reading: Reading, *, name: str | None = None) -> ReadImage:
    """Decodes an image file to RGB: PNG, JPEG, WebP, TIFF, BMP, GIF, AVIF, HEIC, JPEG 2000 or JPEG XL.

    The EXIF orientation is applied (that of XMP is not), and samples of 16 bits are rounded to 8. An alpha
    channel that is opaque everywhere is dropped; any other is refused, composited or kept, as `reading.alpha`
    says. Where it is kept, fully transparent pixels have a colour like those around them.

    Of a file that holds several images the first is read, in a TIFF the first of full resolution, unless
    `reading.frames` refuses it. JPEG and most of TIFF have no checksums: damage that leaves coded data
    well-formed is not noticed.

    Args:
        data: the file.
        reading: what is made of it.
        name: under this name a warning is logged that says how many pages or frames were left out.

    Raises:
        ImageError: for everything that the bytes can be blamed for; with a JPEG also whatever libjpeg warns
            of.
    """
    if not data:
        raise ImageError("empty", "the file holds no bytes")
    kind, read = _reader(data)
    try:
        samples = read(data, reading.limits)
        if samples.left_out and reading.frames == "refuse":
            raise ImageError("several_frames", f"the {kind} file holds {samples.left_out + 1} frames")
        image = finished(samples, reading)
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
    return image


# Of ISO 21496-1, Adobe's and Google's (Ultra HDR), and Apple's.
_GAIN_MAPS = (
    b"urn:iso:std:iso:ts:21496:-1",
    b"http://ns.adobe.com/hdr-gain-map/1.0/",
    b"http://ns.apple.com/HDRGainMap/1.0/",
)
_BRANDS = 128  # bytes in which a file of boxes says of which kind it is
_MPF_BEFORE = 1 << 18  # bytes, before which a JPEG file says that it holds several images

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
    kind = kind_of(data[:_BRANDS])
    if kind is not None:
        return kind, reader_of(kind)
    if data[4:8] == b"ftyp":
        raise ImageError("unsupported", "of such files, AVIF and HEIC are read; this one is of another kind")
    raise ImageError(
        "unreadable", "the file is no PNG, JPEG, WebP, TIFF, BMP or GIF file, nor of a newer kind"
    )


def _by_libvips(data: bytes, loader: str, limits: ImageLimits) -> Samples:
    image = libvips.opened(data, loader)
    check_size(image.width, image.height, limits)
    channels = libvips.pixels(image)
    with_alpha = channels.shape[2] in (2, 4)
    found, lost = libvips.metadata(image)
    return Samples(
        channels[..., :-1] if with_alpha else channels,
        channels[..., -1] if with_alpha else None,
        orientation=exif_orientation(found.exif),
        left_out=libvips.number(image, "n-pages", 1) - 1,
        found=found,
        lost=lost,
    )


def _png(data: bytes, limits: ImageLimits) -> Samples:
    if len(data) >= 24:
        width, height = struct.unpack_from(">II", data, 16)
        check_size(width, height, limits)  # libpng has limits of its own
    try:
        samples = _by_libvips(data, "pngload", limits)
    except pyvips.Error as error:
        raise png_damage(data) from error
    cicp, frames, profile = cicp_and_frames(data)
    if profile and not samples.found.icc:
        samples.lost += ("damaged icc",)
    samples.found, samples.left_out = replace(samples.found, cicp=cicp), frames - 1
    return samples


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
    found, lost = libvips.metadata(header)
    if any(mark in data for mark in _GAIN_MAPS):
        lost += ("gain map",)
    elif b"MPF\0" in data[:_MPF_BEFORE]:
        lost += ("further images",)
    return Samples(
        255 - colour if header.bands == 4 else colour,
        orientation=exif_orientation(found.exif),
        found=found,
        lost=lost,
    )


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
