"""Why a PNG file could not be read: libpng, by way of libvips, does not say."""

from __future__ import annotations

import struct
import zlib

from ncbatch.images.checks import ImageError


def png_damage(data: bytes) -> ImageError:
    """The error for a PNG file that libvips refuses: cut off, damaged, or of another kind."""
    start, kind = 8, b""
    while kind != b"IEND":
        if start + 12 > len(data):
            return ImageError("truncated", "the PNG file stops before its end marker")
        (length,) = struct.unpack_from(">I", data, start)
        kind, end = data[start + 4 : start + 8], start + 12 + length
        if end > len(data):
            return ImageError("truncated", f"the PNG file stops inside a chunk {_shown(kind)}")
        critical = not kind[0] & 0x20  # of the others, whatever they hold, no pixel depends
        if critical and zlib.crc32(memoryview(data)[start + 4 : end - 4]) != int.from_bytes(
            data[end - 4 : end], "big"
        ):
            return ImageError(
                "unreadable", f"the checksum of a chunk {_shown(kind)} of the PNG file is wrong"
            )
        if critical and kind not in (b"IHDR", b"PLTE", b"IDAT", b"IEND"):
            return ImageError("unsupported", f"PNG files with {_shown(kind)} chunks are not read")
        start = end
    return ImageError("unreadable", "the compressed pixels of the PNG file are damaged or incomplete")


def _shown(kind: bytes) -> str:
    return kind.decode("ascii") if kind.isalpha() else repr(kind)
