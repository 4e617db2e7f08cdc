"""Compaction as a run goes: a thread beside the driver that merges commits as they come."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Iterable
from types import TracebackType

from ncbatch.errors import NcbatchError
from ncbatch.metrics.compact import PART_ROWS, fold, merge_recent
from ncbatch.store import Store

log = logging.getLogger(__name__)

FOLD_UNITS = 64
_LAST_SECONDS = 30.0


class Compactor:
    """Merges the commits that it is told of, FOLD_UNITS at a time, and these mergers into parts.

    A courtesy to readers, who find few objects then: nothing depends on it, and where it cannot go on, the
    commits are read one by one.

    Args:
        output: the run's folder.
        loose: units that are committed already and not merged.
        fold_units: commits that become one object of `recent/`.
        part_rows: rows of such objects that are merged further.
    """

    def __init__(
        self,
        output: Store,
        loose: Iterable[str] = (),
        *,
        fold_units: int = FOLD_UNITS,
        part_rows: int = PART_ROWS,
    ) -> None:
        self._output, self._fold_units, self._part_rows = output, fold_units, part_rows
        self._told: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._waiting: list[str] = []
        self._rows = 0
        self._thread = threading.Thread(target=self._work, name="compactor", daemon=True)
        for unit in loose:
            self.committed(unit)

    def committed(self, unit: str) -> None:
        """Tells that a unit is committed. Returns at once."""
        self._told.put(unit)

    def __enter__(self) -> Compactor:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._told.put(None)
        # Not for ever: it may be in the middle of a store's retries.
        self._thread.join(_LAST_SECONDS if kind is None else 0.0)

    def _work(self) -> None:
        while (unit := self._told.get()) is not None:
            self._waiting.append(unit)
            if len(self._waiting) >= self._fold_units:
                self._merge()

    def _merge(self) -> None:
        units, self._waiting = self._waiting, []
        try:
            self._rows += fold(self._output, units)
            if self._rows >= self._part_rows:
                self._rows = 0
                merge_recent(self._output)
        except NcbatchError as error:
            log.warning("commits are not merged: %s; `ncbatch compact` does it later", error)
