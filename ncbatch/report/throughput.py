"""How many images of a run were done, when, and on which machine."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
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

# A worker does one unit after the other, so as many workers were there as units were under way at once. The
# time in which none was under way, such as between two commands, is not theirs.
_WORKERS = """
with attempts as (
    select coalesce(host, 'unknown') as host, max(finished_at) as until,
           min(least(coalesce(started_at, finished_at), finished_at)) as since
    from metrics where finished_at is not null group by host, attempt),
events as (
    select host, since as moment, 1 as change from attempts
    union all select host, until as moment, -1 as change from attempts),
under_way as (
    select host, sum(change) over so_far as units, epoch(lead(moment) over so_far) - epoch(moment) as seconds
    from events window so_far as (partition by host order by moment, change))
select host, max(units) as workers, sum(seconds) filter (units > 0) as seconds from under_way group by host
"""

_INTERVALS = """
select coalesce(host, 'unknown') as host,
       cast(floor((epoch(finished_at) - {start!r}) / {step}) as int) as interval, count(*) as count
from metrics where status = 'ok' and finished_at is not null group by all
"""


@dataclass(frozen=True)
class Host:
    """What one machine did: rows, megapixels and device time, from its first image to its last.

    Attributes:
        workers: that were at work there at once.
        active_seconds: in which one of them was, at least.
    """

    name: str
    device: str | None
    ok: int
    failed: int
    megapixels: float
    device_seconds: float | None
    first: datetime
    last: datetime
    workers: int = 1
    active_seconds: float = 0.0

    @property
    def worker_seconds(self) -> float:
        """Of all its workers while the machine was at work."""
        return self.workers * self.active_seconds

    @property
    def idle_percent(self) -> float | None:
        """Of its workers' time: in which their devices did not compute. None where nobody measured it."""
        return idle_percent([self])

    @property
    def images_per_hour(self) -> float | None:
        """Ok images over the time between the machine's first and last; None where there is only one."""
        seconds = (self.last - self.first).total_seconds()
        return self.ok / seconds * 3600 if seconds > 0 else None


def idle_percent(hosts: Sequence[Host]) -> float | None:
    """As of one machine, over several: those that have measured what their devices did."""
    known = [(h.device_seconds, h.worker_seconds) for h in hosts if h.device_seconds is not None]
    computing, there = (sum(seconds) for seconds in zip(*known, strict=True)) if known else (0.0, 0.0)
    return max(100 * (1 - computing / there), 0.0) if there else None


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
    at_work = {row["host"]: row for row in rows.select(_WORKERS)}
    hosts = [
        Host(
            row["host"], row["device"], row["ok"], row["failed"], row["megapixels"] or 0.0,
            row["device_seconds"], row["first"], row["last"],
            int(at_work[row["host"]]["workers"]), at_work[row["host"]]["seconds"] or 0.0,
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
