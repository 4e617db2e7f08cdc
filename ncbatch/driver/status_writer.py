"""Writes `status.json` beside the driver's loop, which must not wait for a store that is slow or away."""

from __future__ import annotations

import logging
import threading
from types import TracebackType

from ncbatch.driver.progress import Snapshot, write_status
from ncbatch.store import Store, StoreError

log = logging.getLogger(__name__)

_LAST_SECONDS = 10.0
"""For the last snapshot, at the end: a store that is away must not hold up a program that is to end."""


class StatusWriter:
    """A thread that writes the newest snapshot; one that is overtaken by the next is never written.

    To be used as a context, whose end waits a little until the last snapshot is written.
    """

    def __init__(self, output: Store) -> None:
        self._output = output
        self._changed = threading.Condition()
        self._waiting: Snapshot | None = None
        self._over = self._failing = False
        # A daemon, since it may be in the middle of a store's retries when the program ends.
        self._thread = threading.Thread(target=self._run, name="status", daemon=True)

    def __enter__(self) -> StatusWriter:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._over = True
            self._changed.notify()
        self._thread.join(_LAST_SECONDS)

    def offer(self, snapshot: Snapshot) -> None:
        """Hands over a snapshot to be written; never waits."""
        with self._changed:
            self._waiting = snapshot
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting is not None or self._over)
                snapshot, self._waiting = self._waiting, None
            if snapshot is None:
                return
            self._write(snapshot)

    def _write(self, snapshot: Snapshot) -> None:
        """Says once that it fails, and once that it succeeds again: the status is advisory."""
        try:
            write_status(self._output, snapshot)
        except StoreError as error:
            if not self._failing:
                log.warning("the run's status cannot be written, and encoding goes on without it: %s", error)
            self._failing = True
        else:
            if self._failing:
                log.info("the run's status is written again")
            self._failing = False
