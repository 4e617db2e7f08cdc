"""The tags of TIFF directories, of which EXIF blocks are made as well. No pixels are read here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_ORIENTATION = 0x0112
_MOST_PAGES = 1000  # a hostile file may chain as many directories as it has bytes

# TIFF type -> numpy type, and numbers to a value. No tag that is asked for holds text (2) or floats (11, 12).
_TYPES = {
    1: ("u1", 1),
    3: ("u2", 1),
    4: ("u4", 1),
    5: ("u4", 2),
    6: ("i1", 1),
    7: ("u1", 1),
    8: ("i2", 1),
    9: ("i4", 1),
    10: ("i4", 2),
    13: ("u4", 1),
    16: ("u8", 1),
    17: ("i8", 1),
    18: ("u8", 1),
}


class TiffCutError(ValueError):
    """A directory, or the values of one of its tags, lie beyond the last byte."""


@dataclass(frozen=True)
class Directory:
    """One directory of a file.

    Attributes:
        table: its entries, as they are in the file.
        first: the offset of the first entry.
    """

    data: bytes
    order: str
    table: NDArray[np.void]
    first: int

    def values(self, tag: int, most: int | None = None) -> NDArray[np.float64]:
        """A tag's numbers, with rationals divided out; empty without the tag, or if its type is no number.

        Args:
            tag: the tag's number.
            most: how many numbers are read at most; hostile files have tags with as many values as they have
                bytes.

        Raises:
            TiffCutError: the values lie beyond the last byte.
        """
        places = np.flatnonzero(self.table["tag"] == tag)
        if not len(places):
            return np.zeros(0)
        entry = self.table[places[0]]
        kind, count = int(entry["kind"]), int(entry["count"])
        if kind not in _TYPES or not count:
            return np.zeros(0)
        code, each = _TYPES[kind]
        dtype = np.dtype(self.order + code)
        size = count * each * dtype.itemsize
        room = self.table.dtype["value"].itemsize  # what fits lies in the entry itself
        position = int(entry["value"])
        if size <= room:
            position = self.first + (int(places[0]) + 1) * self.table.itemsize - room
        if position + size > len(self.data):
            raise TiffCutError(f"the values of tag {tag} lie beyond its last byte")
        count = count if most is None else min(count, most)
        numbers = np.frombuffer(self.data, dtype, count * each, position).astype(np.float64)
        if each == 1:
            return numbers
        pairs = numbers.reshape(-1, 2)
        return np.divide(pairs[:, 0], pairs[:, 1], out=np.zeros(count), where=pairs[:, 1] != 0)

    def value(self, tag: int, default: int) -> int:
        """The first of a tag's numbers, or `default`.

        Raises:
            TiffCutError: it lies beyond the last byte.
        """
        values = self.values(tag, 1)
        return int(values[0]) if len(values) else default

    def plane(self, number: int, planes: int) -> bytes:
        """A copy of the file in which this directory is that of one plane out of several, as a grey image.

        Raises:
            TiffCutError: a value lies beyond the last byte.
        """
        copy = bytearray(self.data)
        tags, places = np.unique(self.table["tag"], return_index=True)  # of a repeated tag, the first counts
        for tag, place in zip(tags.tolist(), places.tolist(), strict=True):
            kind, values = 3, [1]
            if tag in (273, 279, 324, 325):  # where strips or tiles lie, and their sizes, plane after plane
                every = self.values(tag)
                each = len(every) // planes
                kind, values = 4, [int(value) for value in every[number * each : (number + 1) * each]]
                if not all(0 <= value <= len(self.data) for value in values):
                    raise TiffCutError("a plane lies beyond its last byte")
            elif tag in (258, 339):  # bits, format
                values = [self.value(tag, 1)]
            elif tag == 338:  # extra samples: of no kind
                values = [0]
            elif tag not in (262, 277, 284):  # 1: black is zero, one sample a pixel, contiguous
                continue
            self._rewrite(copy, place, kind, values)
        return bytes(copy)

    def resized(self, data: bytes, width: int, height: int) -> bytes:
        """A copy of `data`, the file or a plane of it, in which this directory states another size."""
        copy = bytearray(data)
        for tag, side in ((256, width), (257, height)):
            for place in np.flatnonzero(self.table["tag"] == tag)[:1]:
                self._rewrite(copy, int(place), 4, [side])
        return bytes(copy)

    def _rewrite(self, copy: bytearray, place: int, kind: int, values: list[int]) -> None:
        """Gives the tag at a place in the table other values; what does not fit there is appended to the
        file.
        """
        pointer = self.table.dtype["value"]
        packed = np.array(values, self.order + {3: "u2", 4: "u4"}[kind]).tobytes()
        if len(packed) > pointer.itemsize:
            copy += packed
            packed = np.array(len(copy) - len(packed), pointer).tobytes()
        entry = (self.table[place]["tag"], kind, len(values), 0)
        new = np.array(entry, self.table.dtype).tobytes()[: -pointer.itemsize]
        at = self.first + place * self.table.itemsize
        copy[at : at + self.table.itemsize] = new + packed.ljust(pointer.itemsize, b"\0")

    def block(self, tag: int) -> bytes:
        """A tag's bytes as they are; empty without the tag, or where its values are no bytes or beyond the
        last one.
        """
        places = np.flatnonzero(self.table["tag"] == tag)
        if not len(places):
            return b""
        entry = self.table[places[0]]
        size, position = int(entry["count"]), int(entry["value"])
        fits = size > self.table.dtype["value"].itemsize and position + size <= len(self.data)
        return self.data[position : position + size] if int(entry["kind"]) in (1, 2, 7) and fits else b""

    @property
    def is_big(self) -> bool:
        """Whether it is of a BigTIFF file."""
        return self.table.dtype["value"].itemsize == 8

    @property
    def start(self) -> int:
        """The offset of the directory itself."""
        return self.first - (8 if self.is_big else 2)

    def upright(self) -> bytes:
        """A copy of the file in which this directory states no turn."""
        copy = bytearray(self.data)
        for place in np.flatnonzero(self.table["tag"] == _ORIENTATION):
            self._rewrite(copy, int(place), 3, [1])
        return bytes(copy)

    def orientation(self) -> int:
        """The orientation as EXIF numbers them, 1 to 8; 1 if none is stated, or none that makes sense."""
        try:
            value = self.value(_ORIENTATION, 1)
        except TiffCutError:
            return 1
        return value if 1 <= value <= 8 else 1


def exif_orientation(exif: bytes) -> int:
    """The orientation that an EXIF block states; 1 for a broken block, since the pixels are whole."""
    block = exif.removeprefix(b"Exif\0\0")
    if block[:2] not in (b"II", b"MM"):
        return 1
    try:
        found = tiff_directories(block)
    except TiffCutError:
        return 1
    return found[0].orientation() if found else 1


def upright_exif(exif: bytes) -> bytes:
    """An EXIF block, without the "Exif" in front, that states no turn; empty for a broken block."""
    block = exif.removeprefix(b"Exif\0\0")
    if block[:2] not in (b"II", b"MM"):
        return b""
    try:
        found = tiff_directories(block)
    except TiffCutError:
        return b""
    if not found:
        return b""
    return block if found[0].orientation() == 1 else found[0].upright()


def tiff_directories(data: bytes) -> list[Directory]:
    """The chained directories of a TIFF file, a BigTIFF file or an EXIF block: the first thousand at most.

    A chain that breaks behind the first directory ends there.

    Raises:
        TiffCutError: the first directory lies beyond the last byte.
    """
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"\x2b\0", b"\0\x2b")
    pointer = np.dtype(order + ("u8" if big else "u4"))
    counter = np.dtype(order + ("u8" if big else "u2"))
    entry = np.dtype([("tag", order + "u2"), ("kind", order + "u2"), ("count", pointer), ("value", pointer)])
    found: list[Directory] = []
    seen: set[int] = set()
    start = _number(data, 8 if big else 4, pointer)
    while start and start not in seen and len(found) < _MOST_PAGES:
        seen.add(start)
        try:
            length, first = _number(data, start, counter), start + counter.itemsize
            end = first + length * entry.itemsize
            if end > len(data):
                raise TiffCutError("a directory lies beyond its last byte")
            found.append(Directory(data, order, np.frombuffer(data, entry, length, first), first))
            start = _number(data, end, pointer)
        except TiffCutError:
            if not found:
                raise
            break
    return found


def _number(data: bytes, position: int, dtype: np.dtype[np.unsignedinteger]) -> int:
    if position + dtype.itemsize > len(data):
        raise TiffCutError("a directory lies beyond its last byte")
    return int(np.frombuffer(data, dtype, 1, position)[0])
