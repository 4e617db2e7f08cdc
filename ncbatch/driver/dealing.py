"""Which waiting unit a worker gets next: one that needs what the worker has, and else the longest. Pure."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Generator, Mapping
from typing import NamedTuple


class Kind(NamedTuple):
    """What units share.

    Attributes:
        model: digest of the model, which takes a worker time and memory to load; None: none.
        images: a hash of the images; 0: of no importance.
    """

    model: str | None = None
    images: int = 0


class Deal:
    """The units that wait.

    A worker goes on with the images that it has open and the model that it has loaded, then with other images
    of this model, and changes the model only when none of its units waits. So it changes it about as often as
    there are models, where dealing by length alone changes it at most calls.

    Args:
        order: of all units; those with small numbers come first.
        kinds: of the units; what is not there is of one kind.
    """

    def __init__(self, order: Mapping[str, int], kinds: Mapping[str, Kind] | None = None) -> None:
        self._order, self._kinds = order, kinds or {}
        self.waiting: set[str] = set()
        self._queued: set[str] = set()  # those with an entry in a heap, whether or not they wait still
        self._by_model: defaultdict[str | None, list[tuple[int, str]]] = defaultdict(list)
        self._siblings: defaultdict[Kind, list[str]] = defaultdict(list)
        for unit, kind in self._kinds.items():
            if unit in order:
                self._siblings[kind].append(unit)

    def put(self, unit: str) -> None:
        """The unit waits."""
        self.waiting.add(unit)
        if unit not in self._queued:
            self._queued.add(unit)
            heapq.heappush(self._by_model[self._kind(unit).model], (self._order[unit], unit))

    def take(self, unit: str) -> None:
        """The unit waits no more."""
        self.waiting.discard(unit)

    def candidates(self, last: str | None = None) -> Generator[str, None, None]:
        """All units that wait, the best first; to be closed when one of them has been taken.

        Args:
            last: the unit that the worker did last.
        """
        seen: set[str] = set()
        kind = self._kinds.get(last) if last is not None else None
        for unit in self._siblings.get(kind, ()) if kind is not None else ():
            if unit in self.waiting:
                seen.add(unit)
                yield unit
        looked_at: list[str] = []
        try:
            own = self._by_model[kind.model] if kind is not None else []
            while own or any(self._by_model.values()):
                heap = own or min(filter(None, self._by_model.values()), key=lambda heap: heap[0])
                unit = heapq.heappop(heap)[1]
                self._queued.discard(unit)
                if unit in self.waiting:
                    looked_at.append(unit)
                    if unit not in seen:
                        yield unit
        finally:
            for unit in looked_at:
                if unit in self.waiting:
                    self.put(unit)

    def _kind(self, unit: str) -> Kind:
        return self._kinds.get(unit, Kind())
