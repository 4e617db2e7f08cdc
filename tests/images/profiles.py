"""Colour profiles (ICC) made by hand, for the tests of applying them."""

from __future__ import annotations

import itertools
import struct

import numpy as np
from PIL import ImageCms

D50 = (0.9642, 1.0, 0.8249)
DISPLAY_P3 = ((0.51512, 0.2412, -0.00105), (0.29198, 0.69225, 0.04189), (0.1571, 0.06657, 0.78407))
"""The red, green and blue of Display P3 as XYZ, adapted to D50."""


def srgb() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def _fixed(*values: float) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))


def _profile(space: bytes, kind: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    start = 128 + 4 + 12 * len(tags)
    table, bodies = struct.pack(">I", len(tags)), b""
    for name, body in tags.items():
        table += name + struct.pack(">II", start + len(bodies), len(body))
        bodies += body.ljust(-(-len(body) // 4) * 4, b"\0")
    size = start + len(bodies)
    head = struct.pack(">I4sI4s4s4s", size, b"\0" * 4, 0x02400000, kind, space, connection)
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + _fixed(*D50)
    return head.ljust(128, b"\0") + table + bodies


def _described() -> dict[bytes, bytes]:
    text = b"made by hand\0"
    return {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(78),
        b"cprt": b"text" + bytes(4) + b"none\0",
        b"wtpt": b"XYZ " + bytes(4) + _fixed(*D50),
    }


def _curve(gamma: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))


def rgb_profile(gamma: float, primaries: tuple[tuple[float, ...], ...] = DISPLAY_P3) -> bytes:
    names = zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries, strict=True)
    tags = {name: b"XYZ " + bytes(4) + _fixed(*value) for name, value in names}
    curves = dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), _curve(gamma))
    return _profile(b"RGB ", b"mntr", b"XYZ ", {**_described(), **tags, **curves})


def grey_profile(gamma: float) -> bytes:
    return _profile(b"GRAY", b"mntr", b"XYZ ", {**_described(), b"kTRC": _curve(gamma)})


def cmyk_profile() -> bytes:
    """Inks that only darken: L* falls from 100 by a quarter with each, and nothing has a hue."""
    ramp = bytes(range(256))
    grid = b"".join(
        bytes([round(255 * (1 - sum(inks) / 4)), 128, 128]) for inks in itertools.product((0, 1), repeat=4)
    )
    matrix = _fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix + ramp * 4 + grid + ramp * 3
    return _profile(b"CMYK", b"prtr", b"Lab ", {**_described(), b"A2B0": lut, b"A2B1": lut})


def p3_to_srgb(pixels: np.ndarray, gamma: float) -> np.ndarray:
    """Display P3's colours with a curve of their own as sRGB, by the book; uint8[height, width, 3]."""
    matrix = np.array([[1.22494, -0.22494, 0], [-0.04206, 1.04206, 0], [-0.01964, -0.07864, 1.09827]])
    linear = ((pixels / 255.0) ** gamma @ matrix.T).clip(0, 1)
    curved = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(curved * 255).astype(np.uint8)
