"""One look at a run: what its driver said last, from two small objects, however large the run is."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone

from ncbatch.driver.lease import read_lease
from ncbatch.driver.progress import Snapshot, read_status
from ncbatch.driver.standing import Standing, planned_since, standing
from ncbatch.plan.generations import latest_generation
from ncbatch.store import Store

_PATIENCE_SECONDS = 300.0
"""For which a driver that may be alive can say nothing before nobody waits for it any more: a store that is
away keeps its word from being written.
"""


@dataclass(frozen=True)
class Look:
    """What is known of a run at a moment.

    Attributes:
        told: what the run does.
        snapshot: its driver's last word, if there was one.
        holder: the driver's process, if one holds the run.
        at: when it was looked at.
    """

    told: Standing
    snapshot: Snapshot | None
    holder: str | None
    at: datetime

    @property
    def age_seconds(self) -> float:
        """Of the driver's last word."""
        return max((self.at - self.snapshot.updated_at).total_seconds(), 0.0) if self.snapshot else 0.0

    @property
    def is_over(self) -> bool:
        """Whether nothing more is to be expected of this driver, or there is none."""
        if self.told.state == "lost":
            return self.holder is None or self.age_seconds > _PATIENCE_SECONDS
        return self.told.state in ("finished", "interrupted", "stopped", "planned")


def look(output: Store) -> Look:
    """Looks at a run in an output folder.

    Raises:
        StoreError: the store does not answer.
    """
    snapshot, lease = read_status(output), read_lease(output)
    now = datetime.now(timezone.utc)
    told = standing(snapshot, lease, now)
    plan = snapshot.plan if snapshot is not None and told.state == "finished" else None
    if plan is not None and latest_generation(output) != plan.generation:
        told = planned_since("more has")
    alive = lease is not None and not lease.held_by_dead_process()
    return Look(told, snapshot, lease.holder if lease is not None and alive else None, now)
