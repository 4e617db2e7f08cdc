"""libvips, as far as images are read with it: one loader by name, one thread, no cache.

libvips is never asked to guess the format: it would offer a hostile file every loader that was built in.
"""

from __future__ import annotations

import logging
import threading
from typing import Any

import numpy as np
import pyvips

from ncbatch.images.carried import Carried
from ncbatch.images.checks import ImageError

# What libvips warns of is refused here, or harms no pixel.
logging.getLogger("pyvips").setLevel(logging.ERROR)
pyvips.cache_set_max(0)  # a worker reads each image once
pyvips.concurrency_set(1)  # there is a worker to each core
_ALONE = threading.Lock()  # what went wrong is noted in one place for the whole process


def opened(data: bytes, loader: str, *, fail_on: str = "warning", **options: Any) -> pyvips.Image:
    """Reads the header of an image; its pixels are decoded when they are asked for, row by row.

    Args:
        data: the file.
        loader: of libvips, by name.
        fail_on: the least trouble that ends decoding, in libvips' words. By default that is its libraries'
            first warning: half an image would be silent damage.

    Raises:
        pyvips.Error: the loader refuses the file.
    """
    load = getattr(pyvips.Image, f"{loader}_buffer")
    with _ALONE:
        return load(data, access="sequential", fail_on=fail_on, **options)


def pixels(image: pyvips.Image) -> np.ndarray:
    """Decodes an image to uint8 or uint16[height, width, channels].

    Raises:
        pyvips.Error: the data are damaged, or of a kind that libvips was built without.
        ImageError: the samples are no whole numbers of 8 or 16 bits.
    """
    if image.format not in ("uchar", "ushort") or image.coding != "none":
        raise ImageError("unsupported", f"images with samples of type {image.format} are not read")
    dtype = np.uint8 if image.format == "uchar" else np.uint16
    with _ALONE:
        pyvips.vips_lib.vips_error_clear()
        samples = np.frombuffer(image.write_to_memory(), dtype)
        if pyvips.ffi.string(pyvips.vips_lib.vips_error_buffer()):
            # Of a tile that libtiff fails to unpack, libvips says so, leaves it black and goes on.
            raise pyvips.Error("unable to write to memory")
    return samples.reshape(image.height, image.width, image.bands)


def blob(image: pyvips.Image, name: str) -> bytes:
    """Bytes that the loader attached under `name`, "exif-data" for instance; empty if it attached none."""
    return bytes(image.get(name)) if image.get_typeof(name) else b""


def metadata(image: pyvips.Image) -> tuple[Carried, tuple[str, ...]]:
    """What the loader attached beside the pixels, and what of it is not carried, in words."""
    exif = blob(image, "exif-data").removeprefix(b"Exif\0\0")
    found = Carried(blob(image, "icc-profile-data"), exif, blob(image, "xmp-data"))
    return found, ("iptc",) if blob(image, "iptc-data") else ()


def number(image: pyvips.Image, name: str, default: int) -> int:
    """An integer that the loader attached under `name`, or `default`."""
    return int(image.get(name)) if image.get_typeof(name) else default


def reason(error: pyvips.Error) -> str:
    """The first thing that libvips' libraries said of an error, in one line."""
    said = [line.strip() for line in str(error).splitlines()[1:]]
    words = [line.partition(": ")[2] or line for line in said if line]
    return words[0] if words else "it gives no reason"
