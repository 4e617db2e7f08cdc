"""Metrics by way of Ray: its agent on each node exports what the node's processes record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.util import metrics as ray_metrics

from ncbatch.telemetry.recorder import Counter, Gauge, Histogram, Instrument, Labels


class RayExporter:
    """Records metrics in the process where it is, which Ray has started or connected.

    Ray adds its own labels, among them the node's address and the process's id, and `ray_` before the names.
    It sends what was recorded every ten seconds (RAY_metrics_report_interval_ms), so that a process which is
    killed takes its last seconds with it; and of a histogram it sends the buckets only, so that the sum is
    approximate.

    Args:
        run: the value of the label `run`.
    """

    def __init__(self, run: str) -> None:
        self._run = run
        self._made: dict[str, Any] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return RayExporter, (self._run,)

    def add(self, counter: Counter, labels: Labels, amount: float) -> None:
        """See `Exporter`."""
        self._metric(counter, ray_metrics.Counter).inc(amount, self._tags(counter, labels))

    def set(self, gauge: Gauge, labels: Labels, value: float) -> None:
        """See `Exporter`."""
        self._metric(gauge, ray_metrics.Gauge).set(value, self._tags(gauge, labels))

    def observe(self, histogram: Histogram, labels: Labels, value: float) -> None:
        """See `Exporter`."""
        metric = self._metric(histogram, ray_metrics.Histogram, boundaries=list(histogram.bounds))
        metric.observe(value, self._tags(histogram, labels))

    def _metric(self, instrument: Instrument, kind: Any, **more: Any) -> Any:
        if instrument.name not in self._made:
            tags = ("run", *instrument.labels)
            self._made[instrument.name] = kind(instrument.name, instrument.help, tag_keys=tags, **more)
        return self._made[instrument.name]

    def _tags(self, instrument: Instrument, labels: Labels) -> Mapping[str, str]:
        return {"run": self._run, **dict(zip(instrument.labels, labels, strict=True))}
