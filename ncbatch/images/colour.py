"""Colour profiles (ICC), applied with LittleCMS."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageCms

from ncbatch.images.reading import Color
from ncbatch.images.samples import printed, to_8_bits

_MODES = {1: "L", 3: "RGB", 4: "CMYK"}
_SPACES = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK"}
_STEPS = 17  # samples a side of the lattice on which a profile is compared with sRGB
_BLOCK = 1 << 22  # pixels that are converted at once
# As image editors do it. Matrix profiles, of cameras and screens, do not depend on either.
_INTENT = ImageCms.Intent.RELATIVE_COLORIMETRIC
_FLAGS = ImageCms.Flags.BLACKPOINTCOMPENSATION


@dataclass(frozen=True)
class Managed:
    """Samples of which the colour is settled.

    Attributes:
        colour: grey or RGB, uint8 or uint16[height, width, 1 or 3].
        icc: the profile that they still have; empty where they are sRGB, or taken for it.
        dropped: what was lost of the profile, in words; empty if nothing was.
    """

    colour: np.ndarray
    icc: bytes = b""
    dropped: str = ""


class _ProfileError(Exception):
    """A profile is damaged, or of other samples than these."""


def managed(colour: np.ndarray, icc: bytes, rule: Color) -> Managed:
    """Does with a colour profile what was asked for.

    Profiles of grey and of CMYK samples are applied where they are asked to be kept, too: what is compressed
    is RGB, which they do not describe. A damaged profile, and one that does not fit the samples, is dropped.

    Args:
        colour: uint8 or uint16[height, width, 1, 3 or 4]: grey, RGB, or CMYK with 0 for no ink.
        icc: the profile; empty if there is none.
        rule: what to do with it.
    """
    if icc and rule != "ignore":
        try:
            transform, mode = _transform(icc, colour.shape[2])
            if rule == "keep" and mode == "RGB":
                return Managed(colour, icc)
            return Managed(_converted(colour, transform, mode))
        except _ProfileError:
            return Managed(_unmanaged(colour), dropped="damaged icc")
    return Managed(_unmanaged(colour), dropped="icc" if icc else "")


def profile_name(icc: bytes) -> str:
    """What a profile is called, by itself."""
    try:
        return ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(icc))).strip()
    except (OSError, ImageCms.PyCMSError):
        return "damaged"


def _unmanaged(colour: np.ndarray) -> np.ndarray:
    return printed(colour) if colour.shape[2] == 4 else colour


def _transform(icc: bytes, channels: int) -> tuple[ImageCms.ImageCmsTransform, str]:
    """What turns samples to sRGB, and the mode of Pillow's images that it takes."""
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        mode = _SPACES.get(profile.profile.xcolor_space.strip(), "")
        if mode != _MODES[channels] and (mode, channels) != ("RGB", 1):
            raise _ProfileError
        # With its optimisation, LittleCMS is levels off in dark greys; without, a table of them is exact.
        flags = _FLAGS | ImageCms.Flags.NOOPTIMIZE if mode == "L" else _FLAGS
        return ImageCms.buildTransform(profile, _srgb(), mode, "RGB", _INTENT, flags), mode
    except (OSError, ImageCms.PyCMSError) as error:
        raise _ProfileError from error


def _converted(colour: np.ndarray, transform: ImageCms.ImageCmsTransform, mode: str) -> np.ndarray:
    """uint8[height, width, 3]; samples that are sRGB already come back as they are."""
    if mode != "CMYK":
        samples = _samples_of(mode)
        moved = _applied(transform, samples, mode)
        # Names of profiles tell little, so what the profile does decides.
        if np.abs(moved.astype(int) - samples).max() <= 1:
            return colour
    colour = to_8_bits(colour)
    if mode == "L":
        return np.asarray(moved[0][colour[..., 0]])
    if mode == "RGB":
        colour = np.broadcast_to(colour, (*colour.shape[:2], 3))
    height, width = colour.shape[:2]
    converted = np.empty((height, width, 3), np.uint8)
    rows = max(_BLOCK // width, 1)
    for first in range(0, height, rows):
        converted[first : first + rows] = _applied(transform, colour[first : first + rows], mode)
    return converted


def _applied(transform: ImageCms.ImageCmsTransform, colour: np.ndarray, mode: str) -> np.ndarray:
    image = Image.frombytes(mode, (colour.shape[1], colour.shape[0]), np.ascontiguousarray(colour).tobytes())
    return np.asarray(ImageCms.applyTransform(image, transform))


def _samples_of(mode: str) -> np.ndarray:
    """All greys, or a lattice of colours: uint8[1, samples, 1 or 3]."""
    if mode == "L":
        return np.arange(256, dtype=np.uint8)[None, :, None]
    side = np.linspace(0, 255, _STEPS).round().astype(np.uint8)
    return np.stack(np.meshgrid(side, side, side), axis=-1).reshape(1, -1, 3)


@cache
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
