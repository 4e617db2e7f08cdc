"""Parts of objects, of which those that lie side by side come with one request."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from ncbatch.store.interface import ObjectInfo, Store

_MOST = 4 << 20
"""Bytes of one request: as large as a few requests' latency is long."""

_GAP = 64 << 10
"""Bytes between two parts that are rather read and dropped than left out by another request."""

_HELD = 16
"""Requests whose bytes are held at most."""


@dataclass(frozen=True)
class Span:
    """A part of an object. start: of its bytes; length: how many they are."""

    key: str
    start: int
    length: int

    @property
    def stop(self) -> int:
        """Where the part ends."""
        return self.start + self.length


@dataclass
class _Group:
    """Spans that are read together. left: how many are yet to be asked for; read: what was read."""

    first: int
    stop: int
    left: int = 0
    read: tuple[ObjectInfo, bytes] | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


class Spans:
    """Reads spans of a store's objects, each of them once; any thread may ask.

    What is read with a span is held until all that lie in it were asked for, or some other requests later, so
    they should be asked for in about their order.
    """

    def __init__(self, store: Store, wanted: Iterable[Span]) -> None:
        self._store = store
        self._groups: dict[Span, _Group] = {}
        self._held: deque[_Group] = deque()
        last: Span | None = None
        group = _Group(0, 0)
        for span in sorted(set(wanted), key=lambda span: (span.key, span.start)):
            near = last is not None and span.key == last.key and span.start <= group.stop + _GAP
            if not near or max(span.stop, group.stop) - group.first > _MOST:
                group = _Group(span.start, span.stop)
            group.stop, group.left, last = max(span.stop, group.stop), group.left + 1, span
            self._groups[span] = group

    def read(self, span: Span) -> bytes:
        """The bytes of a span: fewer where the object ends before; errors as of `Store.get_range`."""
        return self.read_with_info(span)[1]

    def read_with_info(self, span: Span) -> tuple[ObjectInfo, bytes]:
        """The same, and the object that they are of."""
        group = self._groups.pop(span, None)
        if group is None:
            return self._store.get_range_with_info(span.key, span.start, span.length)
        with group.lock:
            read = group.read
            if read is None:
                length = group.stop - group.first
                read = group.read = self._store.get_range_with_info(span.key, group.first, length)
                self._hold(group)
            (info, data), at = read, span.start - group.first
            group.left -= 1
            if not group.left:
                group.read = None
        return info, data[at : at + span.length]

    def _hold(self, group: _Group) -> None:
        """Some of what was read may never be asked for, as of images that fail before."""
        self._held.append(group)
        if len(self._held) > _HELD:
            self._held.popleft().read = None
