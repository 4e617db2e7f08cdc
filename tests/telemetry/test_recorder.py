"""What is counted arrives once, whole, and never in the way of who counts."""

from __future__ import annotations

import logging
import threading

import pytest

from ncbatch.telemetry import recorder
from ncbatch.telemetry.recorder import Counter, Gauge, Histogram, Labels, Recorder
from tests.telemetry.kept import Kept, kept

COUNTER = Counter("ncbatch_things_total", "Things.", ("kind",))
SECONDS = Counter("ncbatch_busy_seconds_total", "Time.")
GAUGE = Gauge("ncbatch_level", "Level.", ("kind",))
HISTOGRAM = Histogram("ncbatch_length_meters", "Lengths.", ("kind",), (1.0, 2.0))


def test_without_an_exporter_nothing_is_kept() -> None:
    COUNTER.add(kind="a")
    with SECONDS.seconds(), kept() as told:
        HISTOGRAM.observe(kind="a")
    assert not told.counts and not told.gauges and not told.observed


def test_what_several_threads_count_is_there_in_all() -> None:
    def count() -> None:
        for _ in range(1000):
            COUNTER.add(2, kind="a")
            HISTOGRAM.observe(1.5, 3.0, kind="b")

    with kept() as told:
        threads = [threading.Thread(target=count) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert told.counts == {(COUNTER.name, ("a",)): 8000}
    assert sorted(told.observed[HISTOGRAM.name, ("b",)]) == [1.5] * 4000 + [3.0] * 4000


def test_seconds_count_while_they_pass() -> None:
    now, told = 0.0, Kept()
    recorder = Recorder(told, lambda: now)
    end = recorder.begin(SECONDS, ())
    now = 10.0
    recorder.flush()
    assert told.counts[SECONDS.name, ()] == 10.0
    now = 13.0
    end()
    now = 20.0
    end()
    recorder.flush()
    assert told.counts[SECONDS.name, ()] == 13.0


def test_gauges_are_told_again_until_they_are_gone() -> None:
    told = Kept()
    recorder = Recorder(told)
    recorder.set(GAUGE, ("a",), 1.0)
    recorder.set(GAUGE, ("b",), 2.0)
    recorder.flush()
    told.gauges.clear()
    recorder.set(GAUGE, ("a",), None)
    recorder.flush()
    assert told.gauges == {(GAUGE.name, ("b",)): 2.0}
    told.gauges.clear()
    recorder.replace(GAUGE, {("c",): 3.0})
    recorder.flush()
    assert told.gauges == {(GAUGE.name, ("c",)): 3.0}


def test_an_exporter_that_fails_ends_nothing_and_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Kept):
        def add(self, counter: Counter, labels: Labels, amount: float) -> None:
            raise OSError("no agent")

    with caplog.at_level(logging.WARNING):
        failing = Recorder(Failing())
        for _ in range(3):
            failing.add(COUNTER, ("a",), 1.0)
            failing.flush()
    (record,) = caplog.records
    assert "no agent" in record.getMessage()


def test_labels_are_exactly_those_of_the_instrument() -> None:
    with kept(), pytest.raises(ValueError, match="has the labels"):
        COUNTER.add(colour="red")
    assert recorder._recorder is None
