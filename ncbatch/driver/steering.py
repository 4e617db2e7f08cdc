"""What ends or holds a run from outside its work: what it may cost, and an operator's orders."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from types import TracebackType

from ncbatch.driver.budget import Budget
from ncbatch.driver.order_watch import OrderWatch
from ncbatch.words import cost

log = logging.getLogger(__name__)

_HOUR = 3600.0


class Steering:
    """Whether the driver is to go on, to pause or to end. To be used as a context.

    Args:
        budget: of this command, counted from now.
        orders: of an operator.
        clock: seconds.
        earlier: seconds for which earlier commands of the run have had workers.
    """

    def __init__(
        self,
        budget: Budget,
        orders: OrderWatch,
        clock: Callable[[], float] = time.monotonic,
        *,
        earlier: float = 0.0,
    ) -> None:
        self._budget, self._orders, self._clock, self._earlier = budget, orders, clock, earlier
        self._started = self._counted = clock()
        self._worker_seconds = 0.0
        self._paused = False

    def __enter__(self) -> Steering:
        self._orders.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._orders.__exit__(kind, error, trace)

    @property
    def cost(self) -> float | None:
        """What this command's workers have cost so far; None without a price."""
        price = self._budget.price_per_hour
        return None if price is None else cost(self._worker_seconds, price)

    @property
    def worker_seconds(self) -> float:
        """For which the run has had workers, in all commands."""
        return self._earlier + self._worker_seconds

    def count(self, workers: int) -> None:
        """So many workers have been there since the last call."""
        now = self._clock()
        self._worker_seconds += workers * (now - self._counted)
        self._counted = now

    @property
    def stop_reason(self) -> str | None:
        """Why the run is to end, or None."""
        if self._orders.action == "drain":
            return f"drained {self._orders.origin}"
        hours, budget, cost = (self._counted - self._started) / _HOUR, self._budget, self.cost
        if budget.max_hours is not None and hours >= budget.max_hours:
            return f"{budget.max_hours:g} hours are over (--max-hours)"
        if budget.max_cost is not None and cost is not None and cost >= budget.max_cost:
            return f"the workers have cost {cost:.2f}, and {budget.max_cost:g} are allowed (--max-cost)"
        return None

    @property
    def paused(self) -> bool:
        """Whether nothing more is to begin for now; each change is logged."""
        paused = self._orders.action == "pause"
        if paused != self._paused:
            self._paused = paused
            if paused:
                log.warning("paused %s; `ncbatch resume` lets the run go on", self._orders.origin)
            else:
                log.info("going on")
        return paused
