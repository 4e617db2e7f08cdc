"""AVIF, HEIC, JPEG 2000 and JPEG XL files to samples, by Pillow and its plugins."""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import AvifImagePlugin
from PIL.AvifImagePlugin import AvifImageFile
from PIL.Image import Image
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile

from ncbatch.images import boxes
from ncbatch.images.carried import Carried
from ncbatch.images.checks import ImageError, check_size
from ncbatch.images.limits import ImageLimits
from ncbatch.images.samples import Samples
from ncbatch.images.tiff_directory import exif_orientation

AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # there is a worker to each core

_READABLE = {"L", "LA", "RGB", "RGBA", "CMYK", "I;16"}
_CUT = ("truncated", "broken data stream", "end of file", "too small", "but only got", "full meta box")
_GAIN_MAP = (b"hdrgainmap", b"tmap")
_HEAD = 1 << 16


def reader_of(kind: boxes.Kind) -> Callable[[bytes, ImageLimits], Samples]:
    """What reads files of a kind. It raises ImageError for whatever is wrong with them."""
    read = {"AVIF": _avif, "HEIC": _heic, "JPEG 2000": _jpeg_2000, "JPEG XL": _jpeg_xl}[kind]

    def reader(data: bytes, limits: ImageLimits) -> Samples:
        try:
            return read(data, limits)
        except (OSError, SyntaxError, ValueError, RuntimeError, EOFError, IndexError) as error:
            reason = " ".join(str(error).split())
            if any(word in reason.lower() for word in _CUT):
                raise ImageError("truncated", f"the {kind} file is cut off: {reason}") from error
            raise ImageError("unreadable", f"the {kind} file cannot be decoded: {reason}") from error

    return reader


def _avif(data: bytes, limits: ImageLimits) -> Samples:
    image = AvifImageFile(io.BytesIO(data))
    samples = _samples(image, limits, boxes.colour_space(data[:_HEAD]))
    samples.orientation = exif_orientation(samples.found.exif)  # Pillow puts there what the file's boxes say
    samples.left_out = image.n_frames - 1
    depth = boxes.avif_depth(data[:_HEAD])
    samples.lost += _lost(data) + ((f"{depth} to 8 bits",) if depth > 8 else ())
    return samples


def _heic(data: bytes, limits: ImageLimits) -> Samples:
    import pillow_heif  # here, since few corpora need it

    pillow_heif.options.DECODE_THREADS = 1
    file = pillow_heif.open_heif(data, convert_hdr_to_8bit=False)
    image = file[file.primary_index]
    check_size(*image.size, limits)
    image.load()
    stored = np.asarray(image)[:, : image.size[0]]
    channels = stored if stored.ndim == 3 else stored[..., None]
    if channels.dtype == np.uint16:  # the highest bits; the others are to follow, so that white is white
        channels = channels | channels >> image.info["bit_depth"]
    about: dict[str, Any] = dict(image.info)
    found = Carried(
        about.get("icc_profile") or b"",
        (about.get("exif") or b"").removeprefix(b"Exif\0\0"),
        about.get("xmp") or b"",
        boxes.colour_space(data[:_HEAD]),
    )
    with_alpha = image.has_alpha
    return Samples(
        channels[..., :-1] if with_alpha else channels,
        channels[..., -1] if with_alpha else None,
        premultiplied=image.premultiplied_alpha,
        left_out=len(file) - 1,  # and it has been turned upright, as the file's boxes say
        found=found,
        lost=_lost(data) + (("further frames",) if boxes.is_sequence(data) and len(file) == 1 else ()),
    )


def _jpeg_2000(data: bytes, limits: ImageLimits) -> Samples:
    components = boxes.jpeg_2000_components(data)
    deep = any(bits > 8 for bits, _ in components) and len(components) > 1
    if deep or any(signed for _, signed in components):
        raise ImageError(
            "unsupported", "JPEG 2000 files in colour are read with 8 bits, and no signed samples"
        )
    samples = _samples(Jpeg2KImageFile(io.BytesIO(data)), limits, b"")
    samples.found = Carried(icc=boxes.jpeg_2000_profile(data))
    return samples


def _jpeg_xl(data: bytes, limits: ImageLimits) -> Samples:
    try:
        plugin: Any = importlib.import_module("pillow_jxl.JpegXLImagePlugin")
    except ImportError:
        fix = "install the package pillow-jxl-plugin where workers run, or convert it to PNG"
        raise ImageError("unsupported", "JPEG XL files need a plugin of Pillow", fix) from None
    size = boxes.size_in(data[:_HEAD])
    if size is None:
        # The plugin decodes whatever it is given, so a size that is not known may not be tried.
        raise ImageError("unreadable", "the JPEG XL file does not say its size at its beginning")
    check_size(*size, limits)
    plugin.DECODE_THREADS = 0
    image = plugin.JXLImageFile(io.BytesIO(data))
    samples = _samples(image, limits, b"")
    if image.jpeg:  # of others, libjxl has turned the pixels upright
        samples.orientation = exif_orientation(samples.found.exif)
    return samples


def _samples(image: Image, limits: ImageLimits, cicp: bytes) -> Samples:
    check_size(*image.size, limits)
    image.load()
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA" if image.mode == "PA" else "RGB")
    if image.mode not in _READABLE:
        raise ImageError("unsupported", f"images of Pillow's mode {image.mode} are not read")
    channels = np.asarray(image)
    channels = channels if channels.ndim == 3 else channels[..., None]
    with_alpha = image.mode in ("LA", "RGBA")
    about = image.info
    exif = (about.get("exif") or b"").removeprefix(b"Exif\0\0")
    return Samples(
        channels[..., :-1] if with_alpha else channels,
        channels[..., -1] if with_alpha else None,
        found=Carried(about.get("icc_profile") or b"", exif, about.get("xmp") or b"", cicp),
    )


def _lost(data: bytes) -> tuple[str, ...]:
    return ("gain map",) if any(mark in data[:_HEAD] for mark in _GAIN_MAP) else ()
