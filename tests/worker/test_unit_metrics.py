"""What a worker counts of its units for Prometheus."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import pytest

from ncbatch.telemetry import instruments, recorder
from ncbatch.telemetry.recorder import Instrument
from ncbatch.worker.busy import Busy
from ncbatch.worker.unit import run_unit
from tests.telemetry.kept import Kept, kept
from tests.workbench import ATTEMPTS, Workbench, make_image, make_variant, sga

STEPS = 30


def _count(told: Kept, instrument: Instrument, *labels: str) -> float:
    return told.counts[instrument.name, labels]


def test_a_unit_is_counted_as_its_rows_say_and_once(local: Workbench) -> None:
    local.add({"a.png": make_image(seed=1), "b.png": make_image(70, 50, seed=2), "bad.png": b"text"})
    spec = local.spec(make_variant(sga(STEPS)))
    unit = local.unit(spec)
    with kept() as told:
        began = time.monotonic()
        run_unit(local.workspace(spec), unit, ATTEMPTS[0], {})
        took = time.monotonic() - began
        run_unit(local.workspace(spec), unit, ATTEMPTS[1], {})
    ok = [row for row in local.rows().values() if row.status == "ok"]
    assert _count(told, instruments.PIXELS, "v") == 64 * 64 + 70 * 50
    assert _count(told, instruments.STEPS, "v") == 2 * STEPS
    assert 0 < _count(told, instruments.BUSY_SECONDS) < took
    for instrument, column in (
        (instruments.BPP, "bpp"),
        (instruments.PSNR, "psnr"),
        (instruments.ENCODE_SECONDS, "encode_seconds"),
        (instruments.REFINEMENT_SECONDS, "device_seconds"),
    ):
        expected = sorted(getattr(row, column) for row in ok)
        assert sorted(told.observed[instrument.name, ("v",)]) == expected
    assert all(map(math.isfinite, told.observed[instruments.PSNR.name, ("v",)]))


def test_steps_of_an_earlier_attempt_are_not_counted_again(local: Workbench) -> None:
    local.add({"a.png": make_image(seed=1)})
    spec = local.spec(make_variant(sga(STEPS)))
    unit = local.unit(spec)
    progress = local.workspace(spec).progress(unit, ATTEMPTS[0])
    with kept() as told:
        for step in (20, 30, 40):
            progress.at_steps(unit.images, [step], [False])
    assert _count(told, instruments.STEPS, "v") == 20


def test_a_device_that_waits_is_not_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, told = [0.0], Kept()
    now_recording = recorder.Recorder(told, lambda: clock[0])
    monkeypatch.setattr(recorder, "_recorder", now_recording)
    busy = Busy()

    def results() -> Iterator[str]:
        clock[0] += 1.0
        with busy.waiting():
            clock[0] += 10.0
        clock[0] += 2.0
        yield "result"

    for _ in busy.made(results()):
        clock[0] += 100.0
    now_recording.flush()
    assert _count(told, instruments.BUSY_SECONDS) == 3.0
