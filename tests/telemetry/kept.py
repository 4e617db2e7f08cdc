"""An exporter that keeps what it is given."""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Iterator
from contextlib import contextmanager

from ncbatch.telemetry import recorder
from ncbatch.telemetry.recorder import Counter, Gauge, Histogram, Labels


class Kept:
    def __init__(self) -> None:
        self.counts = Counts[tuple[str, Labels]]()
        self.gauges: dict[tuple[str, Labels], float] = {}
        self.observed: dict[tuple[str, Labels], list[float]] = {}

    def add(self, counter: Counter, labels: Labels, amount: float) -> None:
        self.counts[counter.name, labels] += amount  # type: ignore[assignment]

    def set(self, gauge: Gauge, labels: Labels, value: float) -> None:
        self.gauges[gauge.name, labels] = value

    def observe(self, histogram: Histogram, labels: Labels, value: float) -> None:
        self.observed.setdefault((histogram.name, labels), []).append(value)


@contextmanager
def kept() -> Iterator[Kept]:
    """What this process counts within the block; all of it is there behind the block."""
    exporter = Kept()
    recorder.start(exporter)
    try:
        yield exporter
    finally:
        recorder.stop()
