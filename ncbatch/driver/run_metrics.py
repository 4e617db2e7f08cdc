"""What a run's driver tells Prometheus, of what it knows in any case."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import get_args

from ncbatch.driver.health import Place
from ncbatch.driver.progress import RunState, Snapshot
from ncbatch.metrics.unit_result import CommittedUnit
from ncbatch.telemetry import instruments
from ncbatch.telemetry.recorder import Labels


class RunMetrics:
    """Of one session.

    Args:
        driver: its name.
    """

    def __init__(self, driver: str) -> None:
        self._driver = driver
        self._last_commit = time.time()
        self._cost = 0.0

    def committed(self, variant: str, result: CommittedUnit) -> None:
        """A unit's commit stands."""
        self._last_commit = time.time()
        instruments.IMAGES.add(result.ok, variant=variant, status="ok", error_class="")
        for name, count in result.classes.items():
            instruments.IMAGES.add(count, variant=variant, status="failed", error_class=name)
        instruments.IMAGE_BYTES.add(result.image_bytes, variant=variant)
        instruments.BITSTREAM_BYTES.add(result.length, variant=variant)

    def lost(self, reason: str) -> None:
        """A call came to nothing. reason: an error class."""
        instruments.LOST_CALLS.add(reason=reason)

    def cost(self, cost: float | None) -> None:
        """What the workers have cost so far; None: nobody knows."""
        if cost is not None:
            instruments.COST.add(cost - self._cost)
            self._cost = cost

    def ended(self, state: RunState) -> None:
        """The driver ends by itself. This is a counter, since Ray's agent keeps those: a gauge would be gone
        with the driver before Prometheus has looked.
        """
        instruments.ENDED.add(driver=self._driver, state=state)

    def report(self, snapshot: Snapshot, *, starting: int, places: Sequence[Place]) -> None:
        """The present state.

        Args:
            snapshot: of the run.
            starting: workers that are.
            places: of all workers.
        """
        instruments.LAST_COMMIT.set(self._last_commit, driver=self._driver)
        instruments.RUN_STATE.replace({(s,): float(s == snapshot.state) for s in get_args(RunState)})
        counts: dict[Labels, float] = {}
        for variant in snapshot.variants:
            pending = variant.images - variant.ok - variant.failed
            for status, count in (("ok", variant.ok), ("failed", variant.failed), ("pending", pending)):
                counts[variant.name, status] = float(max(count, 0))
        instruments.RUN_IMAGES.replace(counts)
        busy = snapshot.busy_workers  # with a unit each
        if snapshot.plan is not None:
            waiting = max(snapshot.plan.units - snapshot.committed_units - busy, 0)
            units = {"committed": snapshot.committed_units, "in_flight": busy, "waiting": waiting}
            instruments.RUN_UNITS.replace({(state,): float(count) for state, count in units.items()})
        workers = {"busy": busy, "idle": max(snapshot.workers - busy, 0), "starting": starting}
        instruments.WORKERS.replace({(state,): float(count) for state, count in workers.items()})
        at = Counter(place.key for place in places)
        instruments.QUARANTINED.replace(
            {
                (kept.host or kept.node, kept.device): float(at[kept.node, kept.device])
                for kept in snapshot.quarantined
            }
        )
        instruments.PROGRESS.set(snapshot.fraction)
        instruments.REMAINING.set(snapshot.eta_seconds)
