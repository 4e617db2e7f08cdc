"""From samples to the image that is compressed, and to what is carried along with it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from ncbatch.images.alpha_plane import coded_plane, filled
from ncbatch.images.carried import LARGEST, Carried, upright
from ncbatch.images.colour import managed
from ncbatch.images.pixels import Pixels
from ncbatch.images.reading import Reading
from ncbatch.images.samples import Samples, to_8_bits


@dataclass(frozen=True)
class ReadImage:
    """An image file that was read.

    Attributes:
        pixels: uint8[height, width, 3], upright, C-contiguous and writable.
        carried: what the file says beside them and is to be carried along.
        dropped: what else the file holds, in words.
    """

    pixels: Pixels
    carried: Carried = field(default_factory=Carried)
    dropped: tuple[str, ...] = ()


def finished(samples: Samples, reading: Reading) -> ReadImage:
    """The image that samples are, as a user wants it read.

    Raises:
        ImageError: there are transparent pixels, and nothing says what lies behind them.
    """
    dropped = [*samples.lost]
    if samples.left_out:
        dropped.append("1 frame" if samples.left_out == 1 else f"{samples.left_out} frames")
    if samples.colour.dtype == np.uint16:
        dropped.append("16 to 8 bits")
    if not samples.is_opaque and reading.alpha != "keep":
        dropped.append("alpha")
    samples, colour, of_colour = _in_colour(samples, reading)
    exif, xmp = upright(samples.found, samples.orientation)
    of_exif = ["damaged exif"] if samples.found.exif and not exif else []
    carried = replace(colour, exif=exif, xmp=xmp)
    large = [name for name in ("icc", "exif", "xmp") if len(getattr(carried, name)) > LARGEST]
    carried = replace(carried, **dict.fromkeys(large, b""))
    words = (*dropped, *of_colour, *of_exif, *(f"large {name}" for name in large))
    pixels = samples.rgb(reading.alpha)
    if reading.alpha == "keep" and not samples.is_opaque:
        plane = samples.plane()
        if plane.min() < 255:  # of 16 bits, some round to opaque
            pixels = filled(pixels, plane)
            carried = replace(carried, alpha=coded_plane(plane))
    return ReadImage(pixels, *reduced(carried, words, reading))


def reduced(carried: Carried, dropped: tuple[str, ...], reading: Reading) -> tuple[Carried, tuple[str, ...]]:
    """What is carried of everything that could be, and what is dropped now in addition."""
    names = [] if reading.carries else ["icc", "cicp", "alpha"]
    if reading.metadata == "strip" or not reading.carries:
        names += ["exif", "xmp"]
    gone = [name for name in names if getattr(carried, name)]
    words = ("hdr" if name == "cicp" and carried.is_hdr else name for name in gone)
    return replace(carried, **dict.fromkeys(gone, b"")), (*dropped, *words)


def _in_colour(samples: Samples, reading: Reading) -> tuple[Samples, Carried, list[str]]:
    """The samples in the colours that are compressed, what says which these are, and what was dropped."""
    found = samples.found
    icc, cicp, dropped = found.icc, found.cicp, []
    if samples.premultiplied and not samples.is_opaque:  # what is multiplied is not what a profile describes
        colour, opacity = samples.flattened(reading.alpha), samples.opacity
        kept = opacity if reading.alpha == "keep" else None
        samples = replace(samples, colour=colour, opacity=kept, premultiplied=False)
    if found.is_hdr and icc:
        icc, dropped = b"", ["icc"]  # of PQ and HLG, the four numbers say more than a profile can
    done = managed(samples.colour, icc, reading.color)
    if done.dropped:
        dropped.append(done.dropped)
    elif icc and not done.icc:
        cicp = b""  # the samples are sRGB now
    if cicp and reading.color == "ignore":
        cicp, dropped = b"", [*dropped, "hdr" if found.is_hdr else "cicp"]
    opacity = samples.opacity
    if opacity is not None and done.colour.dtype == np.uint8:
        opacity = to_8_bits(opacity)
    return replace(samples, colour=done.colour, opacity=opacity), Carried(icc=done.icc, cicp=cicp), dropped
