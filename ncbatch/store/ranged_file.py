"""An object as a file that is read in ranges, for libraries that seek."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial

from typing_extensions import Self, override

from ncbatch.store.interface import ObjectInfo, Store

_SMALL, _LARGE = 8 << 10, 1 << 20
"""Bytes of a window."""

_NEAR = 64 << 10
"""Bytes that are rather read than left out: another request takes longer."""


class ObjectFile(io.RawIOBase):
    """An object as a file in which one can seek; a read fetches its own bytes only.

    Args:
        read: gives ranges of the object: (offset, length).
        size: of the object in bytes.
    """

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        super().__init__()
        self._read_range, self.size = read, size
        self._at = 0

    @classmethod
    def of(cls, store: Store, info: ObjectInfo) -> Self:
        """An object of a store."""
        return cls(partial(store.get_range, info.key), info.size)

    @override
    def readable(self) -> bool:
        return True

    @override
    def seekable(self) -> bool:
        return True

    @override
    def tell(self) -> int:
        return self._at

    @override
    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        self._at = max(origin + offset, 0)
        return self._at

    @override
    def read(self, size: int | None = -1) -> bytes:
        left = max(self.size - self._at, 0)
        length = left if size is None or size < 0 else min(size, left)
        data = self._fetch(length) if length else b""
        self._at += len(data)
        return data

    @override
    def readall(self) -> bytes:
        return self.read()

    @override
    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def _fetch(self, length: int) -> bytes:
        """So many bytes from this place on."""
        return self._read_range(self._at, length)


class WindowedFile(ObjectFile):
    """Reads in windows: large ones where it is read on and on, and small ones where it is skimmed."""

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        super().__init__(read, size)
        self._start, self._window = 0, b""

    @override
    def _fetch(self, length: int) -> bytes:
        data = self._held(self._at, length)
        if len(data) < length:
            self._move(length)
            data = self._held(self._at, length)
        return data

    def peek(self, offset: int, length: int) -> bytes:
        """As much of a range as is at hand without another request."""
        return self._held(offset, length)

    def _held(self, offset: int, length: int) -> bytes:
        at = offset - self._start
        return self._window[at : at + length] if 0 <= at <= len(self._window) else b""

    def _move(self, length: int) -> None:
        """Fetches the window at this place: a large one where hardly anything was left out before it."""
        left_out = self._at - (self._start + len(self._window))
        window = _LARGE if self._window and 0 <= left_out < _NEAR else _SMALL
        self._start = self._at
        self._window = self._read_range(self._at, min(max(length, window), self.size - self._at))
