"""What this process counts, from when `start` is called, and the thread that hands it over.

Counting is a dictionary's entry under a lock: the exporter is called by the thread, once every so often and
never by who counts. Without an exporter, nothing is kept.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

log = logging.getLogger(__name__)

_SECONDS = 2.0
"""Between two hand-overs. Gauges are told anew each time: exporters forget those they do not hear of."""

Labels = tuple[str, ...]
"""Values of an instrument's labels, in their order."""


@dataclass(frozen=True)
class Instrument:
    """One metric. name: by Prometheus' conventions, in base units. labels: their names."""

    name: str
    help: str
    labels: tuple[str, ...] = ()

    def values(self, labels: Mapping[str, str]) -> Labels:
        """The values of exactly the instrument's labels.

        Raises:
            ValueError: one is missing, or there is no such label.
        """
        if labels.keys() != set(self.labels):
            raise ValueError(f"{self.name} has the labels {self.labels}, and was given {tuple(labels)}")
        return tuple(labels[name] for name in self.labels)


@dataclass(frozen=True)
class Counter(Instrument):
    """Only ever goes up; its name ends in `_total`."""

    def add(self, amount: float = 1.0, **labels: str) -> None:
        """Adds to the series of these labels."""
        if _recorder is not None and amount > 0:
            _recorder.add(self, self.values(labels), amount)

    def begin(self, **labels: str) -> Callable[[], None]:
        """Counts seconds from now on, until what is returned is called."""
        recorder = _recorder
        return recorder.begin(self, self.values(labels)) if recorder is not None else _nothing

    @contextlib.contextmanager
    def seconds(self, **labels: str) -> Iterator[None]:
        """Counts the seconds of a block, also while it goes on."""
        end = self.begin(**labels)
        try:
            yield
        finally:
            end()


@dataclass(frozen=True)
class Gauge(Instrument):
    """A value that goes up and down."""

    def set(self, value: float | None, **labels: str) -> None:
        """Sets the series of these labels; None: there is no such series any more."""
        if _recorder is not None:
            _recorder.set(self, self.values(labels), value)

    def replace(self, series: Mapping[Labels, float]) -> None:
        """Sets all series of the gauge, by the values of its labels; there are no others any more."""
        if _recorder is not None:
            _recorder.replace(self, series)


@dataclass(frozen=True)
class Histogram(Instrument):
    """Distribution of a value. bounds: upper ones of the buckets, ascending and above 0."""

    bounds: tuple[float, ...] = ()

    def observe(self, *values: float, **labels: str) -> None:
        """Takes account of some values."""
        if _recorder is not None and values:
            _recorder.observe(self, self.values(labels), values)


class Exporter(Protocol):
    """Where metrics go. It is pickled and sent to processes, and called by one thread in each."""

    def add(self, counter: Counter, labels: Labels, amount: float) -> None:
        """An amount above 0."""

    def set(self, gauge: Gauge, labels: Labels, value: float) -> None:
        """The present value; a series that is not set again for a while is over."""

    def observe(self, histogram: Histogram, labels: Labels, value: float) -> None:
        """One value."""


class Recorder:
    """Collects what is counted, for an exporter."""

    def __init__(self, exporter: Exporter, clock: Callable[[], float] = time.monotonic) -> None:
        self._exporter, self._clock = exporter, clock
        self._lock = threading.Lock()
        self._flushing = threading.Lock()
        self._counts: dict[tuple[Counter, Labels], float] = defaultdict(float)
        self._gauges: dict[Gauge, dict[Labels, float]] = {}
        self._observed: dict[tuple[Histogram, Labels], list[float]] = defaultdict(list)
        self._running: dict[object, tuple[Counter, Labels, float]] = {}
        self._failing = False

    def add(self, counter: Counter, labels: Labels, amount: float) -> None:
        """See `Counter`."""
        with self._lock:
            self._counts[counter, labels] += amount

    def begin(self, counter: Counter, labels: Labels) -> Callable[[], None]:
        """See `Counter`."""
        key = object()
        with self._lock:
            self._running[key] = counter, labels, self._clock()

        def end() -> None:
            with self._lock:
                self._count_time(key)
                self._running.pop(key, None)

        return end

    def _count_time(self, key: object) -> None:
        if key in self._running:
            counter, labels, since = self._running[key]
            now = self._clock()
            self._counts[counter, labels] += now - since
            self._running[key] = counter, labels, now

    def set(self, gauge: Gauge, labels: Labels, value: float | None) -> None:
        """See `Gauge`."""
        with self._lock:
            series = self._gauges.setdefault(gauge, {})
            if value is None:
                series.pop(labels, None)
            else:
                series[labels] = value

    def replace(self, gauge: Gauge, series: Mapping[Labels, float]) -> None:
        """See `Gauge`."""
        with self._lock:
            self._gauges[gauge] = dict(series)

    def observe(self, histogram: Histogram, labels: Labels, values: Sequence[float]) -> None:
        """See `Histogram`."""
        with self._lock:
            self._observed[histogram, labels].extend(values)

    def flush(self) -> None:
        """Hands over what has been counted since the last time, and all gauges."""
        with self._flushing:
            with self._lock:
                for key in list(self._running):
                    self._count_time(key)
                counts, self._counts = self._counts, defaultdict(float)
                observed, self._observed = self._observed, defaultdict(list)
                gauges = [
                    (g, labels, v) for g, series in self._gauges.items() for labels, v in series.items()
                ]
            try:
                for (counter, labels), amount in counts.items():
                    if amount > 0:
                        self._exporter.add(counter, labels, amount)
                for gauge, labels, value in gauges:
                    self._exporter.set(gauge, labels, value)
                for (histogram, labels), values in observed.items():
                    for each in values:
                        self._exporter.observe(histogram, labels, each)
            except Exception as error:  # noqa: BLE001 - whatever an exporter raises, no run ends for its metrics
                if not self._failing:
                    log.warning("metrics are not exported, and work goes on without them: %s", error)
                self._failing = True


class _Thread(threading.Thread):
    """Flushes a recorder every so often."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__(name="metrics", daemon=True)
        self._recorder, self._over = recorder, threading.Event()

    def run(self) -> None:
        while not self._over.wait(_SECONDS):
            self._recorder.flush()

    def end(self) -> None:
        self._over.set()
        self.join(_SECONDS)
        self._recorder.flush()


_recorder: Recorder | None = None
_thread: _Thread | None = None


def start(exporter: Exporter) -> None:
    """From now on, what this process counts goes to an exporter, in place of any other."""
    global _recorder, _thread
    stop()
    _recorder = Recorder(exporter)
    _thread = _Thread(_recorder)
    _thread.start()


def stop() -> None:
    """Hands over what is left; from now on, nothing is counted."""
    global _recorder, _thread
    thread, _recorder, _thread = _thread, None, None
    if thread is not None:
        thread.end()


def _nothing() -> None:
    """Ends what was not begun."""
