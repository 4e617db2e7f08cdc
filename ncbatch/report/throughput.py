"""How many images of a run were done, when, and on which machine."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta

from ncbatch.report.rows import Rows

_SHOWN_HOSTS = 8
OTHERS = "other hosts"

# Seconds that people count in.
_STEPS = (1, 5, 10, 30, 60, 300, 600, 1800, 3600, 3 * 3600, 6 * 3600, 12 * 3600, 24 * 3600, 7 * 24 * 3600)
_MOST_INTERVALS = 80

_HOSTS = """
select coalesce(host, 'unknown') as host, any_value(device) as device,
       count(*) filter (status = 'ok') as ok, count(*) filter (status = 'failed') as failed,
       sum(width * height) filter (status = 'ok') / 1e6 as megapixels, sum(device_seconds) as device_seconds,
       min(least(coalesce(started_at, finished_at), finished_at)) as first, max(finished_at) as last
from metrics where finished_at is not null group by 1 order by ok desc, 1
"""

_INTERVALS = """
select coalesce(host, 'unknown') as host,
       cast(floor((epoch(finished_at) - {start!r}) / {step}) as int) as interval, count(*) as count
from metrics where status = 'ok' and finished_at is not null group by all
"""


@dataclass(frozen=True)
class Host:
    """What one machine did: rows, megapixels and device time, from its first image to its last."""

    name: str
    device: str | None
    ok: int
    failed: int
    megapixels: float
    device_seconds: float | None
    first: datetime
    last: datetime

    @property
    def images_per_hour(self) -> float | None:
        """Ok images over the time between the machine's first and last; None where there is only one."""
        seconds = (self.last - self.first).total_seconds()
        return self.ok / seconds * 3600 if seconds > 0 else None


@dataclass(frozen=True)
class Throughput:
    """Images done over time.

    Attributes:
        edges: of the intervals.
        step_seconds: the length of an interval.
        counts: ok images that ended in each interval, by machine.
        hosts: those with the most images first.
    """

    edges: tuple[datetime, ...]
    step_seconds: int
    counts: dict[str, tuple[int, ...]]
    hosts: tuple[Host, ...]


def read_throughput(rows: Rows) -> Throughput | None:
    """The throughput of a run; None before its first image is done."""
    hosts = [
        Host(
            row["host"], row["device"], row["ok"], row["failed"], row["megapixels"] or 0.0,
            row["device_seconds"], row["first"], row["last"],
        )
        for row in rows.select(_HOSTS)
    ]  # fmt: skip
    if not any(host.ok for host in hosts):
        return None
    first, last = min(host.first for host in hosts), max(host.last for host in hosts)
    span = (last - first).total_seconds()
    step = next((step for step in _STEPS if span / step < _MOST_INTERVALS), _STEPS[-1])
    start = first.timestamp() // step * step
    intervals = int((last.timestamp() - start) // step) + 1
    names = [host.name for host in hosts if host.ok][:_SHOWN_HOSTS]
    counts: dict[str, list[int]] = defaultdict(lambda: [0] * intervals)
    for row in rows.select(_INTERVALS.format(start=start, step=step)):
        counts[row["host"] if row["host"] in names else OTHERS][row["interval"]] += row["count"]
    edges = tuple(_at(start, first) + timedelta(seconds=step * i) for i in range(intervals + 1))
    order = [*names, *([OTHERS] if OTHERS in counts else [])]
    return Throughput(edges, step, {name: tuple(counts[name]) for name in order}, tuple(hosts))


def _at(timestamp: float, like: datetime) -> datetime:
    return datetime.fromtimestamp(timestamp, like.tzinfo)
