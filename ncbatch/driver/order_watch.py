"""Looks for orders in the run's folder beside the driver's loop, which must not wait for a store."""

from __future__ import annotations

import logging
import threading
from types import TracebackType

from ncbatch.plan.orders import Action, Order, give, standing_order
from ncbatch.store import Store, StoreError

log = logging.getLogger(__name__)

_SECONDS = 3.0
"""Between two looks; a GET each, of which a store takes a million for less than a worker's hour."""


class OrderWatch:
    """A thread that knows the newest order. To be used as a context.

    An order to drain that stood before was obeyed by an earlier driver: who starts another one wants the run
    to go on. An order to pause stands until it is taken back.
    """

    def __init__(self, output: Store, seconds: float = _SECONDS) -> None:
        self._output, self._seconds = output, seconds
        self._order: Order | None = None
        self._failing = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="orders", daemon=True)

    def __enter__(self) -> OrderWatch:
        try:
            order = standing_order(self._output)
            if order is not None and order.action == "drain":
                order = give(self._output, "go-on")
        except StoreError as error:
            log.warning("it cannot be read whether the run is to pause, and it begins: %s", error)
        else:
            self._order = order
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()  # the thread may be in a store's retries: it is left to them

    @property
    def action(self) -> Action:
        """What the newest order says; never waits."""
        return self._order.action if self._order is not None else "go-on"

    @property
    def origin(self) -> str:
        """Who gave the order and when, in words."""
        return self._order.origin if self._order is not None else ""

    def _run(self) -> None:
        while not self._over.wait(self._seconds):
            try:
                self._order = standing_order(self._output)
                self._failing = False
            except StoreError as error:
                if not self._failing:
                    log.debug("no order can be read at present: %s", error)
                self._failing = True
