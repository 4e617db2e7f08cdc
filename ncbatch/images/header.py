"""Width and height from an image file's header, of which only some ranges are fetched.

Nothing is checked here beyond what is needed to find the two numbers: whether an image can be read is found
out by reading it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from ncbatch.images.boxes import kind_of, size_in

ReadRange = Callable[[int, int], bytes]
"""At most so many bytes from an offset: (offset, length)."""

HEAD = 64 * 1024
"""Bytes that are fetched first, in which most files state their size."""

_MORE = 4 * 1024
_FETCHES = 12
_BYTES = 1024 * 1024
_SIZED = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})  # JPEG's markers that begin a frame
_ALONE = frozenset({0x01, *range(0xD0, 0xD8)})  # markers without a segment


def image_size(read: ReadRange) -> tuple[int, int] | None:
    """Width and height in pixels as the file stores them, before any orientation is applied.

    Args:
        read: gives ranges of the file; it is called a few times at most, for a megabyte in all.

    Returns:
        None where the header does not tell, or none is there.
    """
    file = _Window(read)
    head = file.at(0, 32)
    try:
        found = _size(file, head)
    except (struct.error, _TooFarError):
        return None
    return found if found is not None and min(found) > 0 else None


class _TooFarError(Exception):
    """The header would take more of the file than is worth it."""


class _Window:
    """Parts of a file, fetched as they are asked for."""

    def __init__(self, read: ReadRange) -> None:
        self._read = read
        self._parts: list[tuple[int, bytes]] = []
        self._end: int | None = None  # of the file, once a part came shorter than it was asked for
        self._left = _BYTES

    def at(self, offset: int, length: int) -> bytes:
        """The bytes from an offset on, fewer at the file's end."""
        for start, part in self._parts:
            last = offset + length if self._end is None else min(offset + length, self._end)
            if start <= offset and last <= start + len(part):
                return part[offset - start : offset - start + length]
        wanted = HEAD if not self._parts else max(_MORE, length)
        if len(self._parts) == _FETCHES or wanted > self._left:
            raise _TooFarError
        self._left -= wanted
        part = self._read(offset, wanted)
        self._parts.append((offset, part))
        if len(part) < wanted:
            self._end = offset + len(part)
        return part[:length]

    def numbers(self, form: str, offset: int) -> tuple[int, ...]:
        """Numbers as `struct` reads them; raises struct.error behind the file's end."""
        return struct.unpack(form, self.at(offset, struct.calcsize(form)))


def _size(file: _Window, head: bytes) -> tuple[int, int] | None:
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return _pair(struct.unpack_from(">II", head, 16))
    if head.startswith(b"\xff\xd8\xff"):
        return _jpeg(file)
    if head.startswith((b"GIF87a", b"GIF89a")):
        return _pair(struct.unpack_from("<HH", head, 6))
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return _webp(head)
    if head.startswith((b"II\x2a\0", b"MM\0\x2a", b"II\x2b\0", b"MM\0\x2b")):
        return _tiff(file, head)
    if head.startswith(b"BM"):
        return _bmp(head)
    if kind_of(file.at(0, 128)) is not None:
        return size_in(file.at(0, HEAD))
    return None


def _pair(numbers: tuple[int, ...]) -> tuple[int, int]:
    width, height = numbers
    return width, height


def _jpeg(file: _Window) -> tuple[int, int] | None:
    at = 2
    while True:
        byte, marker = file.numbers(">BB", at)
        if byte != 0xFF:
            return None
        if marker == 0xFF:  # a fill byte
            at += 1
        elif marker in _ALONE:
            at += 2
        elif marker in _SIZED:
            height, width = file.numbers(">HH", at + 5)
            return width, height
        elif marker in (0xD9, 0xDA):
            return None
        else:
            (length,) = file.numbers(">H", at + 2)
            at += 2 + length


def _webp(head: bytes) -> tuple[int, int] | None:
    kind = head[12:16]
    if kind == b"VP8X":
        low, high, below, above = struct.unpack_from("<HBHB", head, 24)
        return 1 + low + (high << 16), 1 + below + (above << 16)
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", head, 21)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", head, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


def _bmp(head: bytes) -> tuple[int, int]:
    (size,) = struct.unpack_from("<I", head, 14)
    if size == 12:
        return _pair(struct.unpack_from("<HH", head, 18))
    width, height = struct.unpack_from("<ii", head, 18)
    return width, abs(height)  # rows from the top have a negative height


def _tiff(file: _Window, head: bytes) -> tuple[int, int] | None:
    """Of the first directory: files whose first one is a preview are guessed too small by that."""
    order = "<" if head[:2] == b"II" else ">"
    big = head[2:4] in (b"\x2b\0", b"\0\x2b")
    (directory,) = struct.unpack_from(order + ("Q" if big else "I"), head, 8 if big else 4)
    (count,) = file.numbers(order + ("Q" if big else "H"), directory)
    at, each = directory + (8 if big else 2), 20 if big else 12
    sides: dict[int, int] = {}
    for number in range(min(count, 200)):
        tag, kind = file.numbers(order + "HH", at + number * each)
        if tag in (256, 257):
            form = {3: "H", 4: "I", 16: "Q"}.get(kind)
            if form is None:
                return None
            (sides[tag],) = file.numbers(order + form, at + number * each + (12 if big else 8))
        if len(sides) == 2:
            return sides[256], sides[257]
    return None
