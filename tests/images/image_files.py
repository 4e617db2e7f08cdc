"""Image files made by hand, for the tests of reading them."""

import io
import struct
import zlib
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from ncbatch.images.checks import ImageError
from ncbatch.images.read import read_image

RNG = np.random.default_rng(7)

ByteOrder = Literal["<", ">"]


def gradient(height: int = 40, width: int = 50) -> np.ndarray:
    """Smooth, but without symmetry, so that a turned or mirrored copy differs."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 5 + y, y * 6, 255 - x - y * 3], axis=-1).clip(0, 255).astype(np.uint8)


def save(image: Image.Image | np.ndarray, file_format: str, **options: object) -> bytes:
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(
    rows: list[bytes],
    width: int,
    height: int,
    depth: int,
    colour_type: int,
    *extra: tuple[bytes, bytes],
    interlace: int = 0,
) -> bytes:
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, interlace)),
            *[png_chunk(kind, body) for kind, body in extra],
            png_chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))),
            png_chunk(b"IEND", b""),
        ]
    )


def png16(samples: np.ndarray, colour_type: int, *extra: tuple[bytes, bytes]) -> bytes:
    rows = [row.astype(">u2").tobytes() for row in samples]
    return png(rows, samples.shape[1], samples.shape[0], 16, colour_type, *extra)


def tiff(
    samples: np.ndarray,
    photometric: int,
    order: ByteOrder = "<",
    *,
    body: bytes | None = None,
    rational: dict[int, tuple[float, ...]] | None = None,
    **tags: list[int],
) -> bytes:
    """An uncompressed TIFF whose directory stands at the end, as many writers put it.

    `body` is what it holds instead of the samples, `rational` tags of that type, `t274=[6]` any others.
    """
    height, width, channels = samples.shape
    body = samples.astype(samples.dtype.newbyteorder(order)).tobytes() if body is None else body
    entries: dict[int, tuple[int, list[int]]] = {
        tag: (4, values)
        for tag, values in {
            256: [width],
            257: [height],
            258: [samples.dtype.itemsize * 8] * channels,
            259: [1],
            262: [photometric],
            273: [8],
            277: [channels],
            278: [height],
            279: [len(body)],
            284: [1],
        }.items()
    }
    entries |= {int(tag[1:]): (4, values) for tag, values in tags.items()}
    for tag, fractions in (rational or {}).items():
        entries[tag] = (5, [part for value in fractions for part in (round(value * 10000), 10000)])
    start = 8 + len(body) + 2 + 12 * len(entries) + 4
    directory, values_area = struct.pack(order + "H", len(entries)), b""
    for tag, (kind, values) in sorted(entries.items()):
        packed = struct.pack(order + "I" * len(values), *values)
        if len(packed) > 4:
            values_area += packed
            packed = struct.pack(order + "I", start + len(values_area) - len(packed))
        directory += struct.pack(order + "HHI", tag, kind, len(values) // (2 if kind == 5 else 1)) + packed
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8 + len(body))
    # The values precede nothing: a cut anywhere in the directory or in them must be noticed.
    return head + body + directory + struct.pack(order + "I", 0) + values_area


def deep(channels: int) -> np.ndarray:
    samples = RNG.integers(0, 65536, (6, 9, channels)).astype(np.uint16)
    samples[0, :4, 0] = [0, 127, 129, 65535]
    return samples


def to_8_bits(samples: np.ndarray) -> np.ndarray:
    return np.rint(samples.astype(np.float64) / 257).astype(np.uint8)


def error_class(data: bytes, **options: object) -> str:
    with pytest.raises(ImageError) as caught:
        read_image(data, **options)  # type: ignore[arg-type]
    return caught.value.error_class


def exif(value: int, kind: int, count: int = 1, order: ByteOrder = "<") -> bytes:
    """An EXIF block that states the orientation `count` times in a number of TIFF's type `kind`."""
    letter = {1: "B", 3: "H", 4: "I", 6: "b", 7: "B", 8: "h", 9: "i"}[kind]
    body = struct.pack(order + letter * count, *[value] * count).ljust(4, b"\0")
    start = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8)
    entry = struct.pack(order + "HHHI", 1, 0x0112, kind, count)
    return b"Exif\0\0" + start + entry + body + struct.pack(order + "I", 0)
