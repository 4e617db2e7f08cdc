"""Keeps a driver's lease alive from a thread, whatever the driver is busy with."""

from __future__ import annotations

import logging
import threading
from types import TracebackType

from ncbatch.runs.lease import Lease
from ncbatch.store import StoreError

log = logging.getLogger(__name__)

_TICK_SECONDS = 1.0
_JOIN_SECONDS = 5.0


class Heartbeat:
    """Renews a lease for as long as the `with` block lasts.

    A thread, since starting Ray, listing a large corpus and a store that is throttling each take longer than
    another driver waits for a sign of life.
    """

    def __init__(self, lease: Lease) -> None:
        self.driver = lease.driver
        self._lease = lease
        self._over = threading.Event()
        self._lost = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)

    @property
    def lost(self) -> bool:
        """Whether another driver has taken the run over."""
        return self._lost.is_set()

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join(_JOIN_SECONDS)  # not for ever: it may be in the middle of a store's retries

    def _beat(self) -> None:
        while not self._over.wait(_TICK_SECONDS):
            try:
                if not self._lease.renew():
                    self._lost.set()
                    return
            except StoreError as error:  # a courtesy is not worth a run
                log.debug("cannot renew the lease: %s", error)
