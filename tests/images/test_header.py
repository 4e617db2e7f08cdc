"""Sizes from headers: of every format that is read, from a few ranges of the file, whatever the bytes are."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ncbatch.images.header import HEAD, image_size

SIZE = (300, 200)


class Ranges:
    """A file of which ranges are read, and how many were."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.read: list[tuple[int, int]] = []

    def __call__(self, offset: int, length: int) -> bytes:
        assert offset >= 0 and length > 0
        self.read.append((offset, length))
        return self._data[offset : offset + length]


def saved(kind: str, mode: str = "RGB", **options: Any) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(**options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.zeros((SIZE[1], SIZE[0]), np.uint8), **options)
    return buffer.getvalue()


def bmp_of_os2() -> bytes:
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 26) + struct.pack("<IHHHH", 12, *SIZE, 1, 24) + bytes(64)


def from_the_top(bmp: bytes) -> bytes:
    return bmp[:22] + struct.pack("<i", -SIZE[1]) + bmp[26:]


FILES = {
    "png": saved("PNG"),
    "jpeg": saved("JPEG"),
    "progressive": saved("JPEG", progressive=True),
    "cmyk": saved("JPEG", "CMYK"),
    "fill bytes": saved("JPEG").replace(b"\xff\xdb", b"\xff\xff\xff\xdb", 1),
    "gif": saved("GIF", "P"),
    "webp": saved("WEBP"),
    "lossless webp": saved("WEBP", lossless=True),
    "webp with alpha": saved("WEBP", "RGBA", exif=b"Exif\0\0" + bytes(40)),
    "bmp": saved("BMP"),
    "bmp from the top": from_the_top(saved("BMP")),
    "bmp of OS/2": bmp_of_os2(),
    "tiff": saved("TIFF"),
    "tiff, directory at the end": saved("TIFF", compression="tiff_lzw"),
    "big endian": tiff(byteorder=">"),
    "BigTIFF": tiff(bigtiff=True),
    "BigTIFF, big endian": tiff(bigtiff=True, byteorder=">"),
}


@pytest.mark.parametrize("name", FILES)
def test_sizes_of_every_kind(name: str) -> None:
    file = Ranges(FILES[name])
    assert image_size(file) == SIZE
    assert file.read[0] == (0, HEAD) and len(file.read) <= 3


def test_a_profile_of_more_than_the_head_is_passed_over() -> None:
    file = Ranges(saved("JPEG", icc_profile=np.random.default_rng(0).bytes(300_000), exif=bytes(60_000)))
    assert image_size(file) == SIZE
    assert 2 < len(file.read) <= 10 and sum(length for _, length in file.read) < 120_000


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_cut_off_has_the_size_or_none(name: str) -> None:
    for length in (0, 1, 4, 11, 13, 20, 25, 29, 40, 200):
        assert image_size(Ranges(FILES[name][:length])) in (SIZE, None)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"text" * 100,
        b"\x89PNG\r\n\x1a\n" + bytes(30),  # 0 x 0
        b"\xff\xd8\xff\xd9" + bytes(30),
        b"\xff\xd8" + b"\xff" * 10_000_000,
        b"\xff\xd8" + b"\xff\xe0\x00\x00" * 100_000,
        b"\xff\xd8" + (b"\xff\xe0\xff\xff" + bytes(0xFFFD)) * 50,
        b"II\x2a\0" + struct.pack("<I", 8) + struct.pack("<H", 65535) + bytes(10**6),
        b"II\x2a\0" + struct.pack("<I", 2**32 - 1),
        b"RIFF\0\0\0\0WEBPnope" + bytes(30),
    ],
    ids=lambda data: repr(data[:12]),
)
def test_what_tells_no_size_costs_little(data: bytes) -> None:
    file = Ranges(data)
    assert image_size(file) is None
    assert len(file.read) <= 12 and sum(length for _, length in file.read) <= 2**20


@given(st.sampled_from(sorted(FILES)), st.data())
def test_damaged_headers_end_well(name: str, data: st.DataObject) -> None:
    content = bytearray(FILES[name][:4000])
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    file = Ranges(bytes(content))
    found = image_size(file)
    assert found is None or min(found) > 0
    assert len(file.read) <= 12
