"""What the driver tells Prometheus."""

from __future__ import annotations

import time
from dataclasses import replace

from ncbatch.driver.forecast import Forecast
from ncbatch.driver.health import Place, Quarantine
from ncbatch.driver.progress import PlanCounts, Progress, UnitInFlight
from ncbatch.driver.run_metrics import RunMetrics
from ncbatch.metrics.unit_result import CommittedUnit
from ncbatch.telemetry import instruments
from tests.telemetry.kept import kept

DONE = CommittedUnit(3, 2, bpp=3.0, psnr=90.0, image_bytes=900, length=90,
                     classes={"unreadable": 1, "process_killed": 1})  # fmt: skip


def test_commits_losses_and_cost_are_counted() -> None:
    metrics = RunMetrics("d")
    with kept() as told:
        metrics.committed("v", DONE)
        metrics.committed("w", replace(DONE, failed=0, classes={}))
        metrics.lost("process_killed")
        for cost in (None, 1.5, 2.0):
            metrics.cost(cost)
        metrics.ended("stopped")
    images, total = instruments.IMAGES.name, told.counts
    assert total[images, ("v", "ok", "")] == total[images, ("w", "ok", "")] == 3
    assert total[images, ("v", "failed", "unreadable")] == 1
    assert total[images, ("v", "failed", "process_killed")] == 1
    assert total[instruments.IMAGE_BYTES.name, ("v",)] == 900
    assert total[instruments.BITSTREAM_BYTES.name, ("v",)] == 90
    assert total[instruments.LOST_CALLS.name, ("process_killed",)] == 1
    assert total[instruments.COST.name, ()] == 2.0
    assert total[instruments.ENDED.name, ("d", "stopped")] == 1


def test_the_state_of_the_run_is_told_as_it_is_now() -> None:
    progress = Progress({"v": 20}, Forecast({"a": 20.0, "b": 20.0}))
    progress.plan = PlanCounts(generation=0, units=4, inputs=20)
    progress.add("v", DONE)
    progress.state, progress.workers = "running", 3
    at = UnitInFlight(unit="a", variant="v", images=5, worker="w", fraction=None, seconds=1.0)
    progress.in_flight = [at, at]
    sick = Place("node-1", "cuda:0", "gpu-1", process=1)
    progress.quarantined = [Quarantine(sick, 3, "no")]
    metrics = RunMetrics("d")
    places = [sick, replace(sick, process=2), Place("node-2", "cuda:0")]
    began = time.time()
    with kept() as told:
        metrics.committed("v", DONE)
        metrics.report(progress.snapshot(), starting=1, places=places)
    gauges = told.gauges
    assert gauges[instruments.RUN_STATE.name, ("running",)] == 1.0
    assert sum(v for (name, _), v in gauges.items() if name == instruments.RUN_STATE.name) == 1.0
    counts = {
        status: gauges[instruments.RUN_IMAGES.name, ("v", status)] for status in ("ok", "failed", "pending")
    }
    assert counts == {"ok": 3, "failed": 2, "pending": 15}
    units = {s: gauges[instruments.RUN_UNITS.name, (s,)] for s in ("committed", "in_flight", "waiting")}
    assert units == {"committed": 1, "in_flight": 2, "waiting": 1}
    workers = {s: gauges[instruments.WORKERS.name, (s,)] for s in ("busy", "idle", "starting")}
    assert workers == {"busy": 2, "idle": 1, "starting": 1}
    assert gauges[instruments.QUARANTINED.name, ("gpu-1", "cuda:0")] == 2
    assert gauges[instruments.LAST_COMMIT.name, ("d",)] >= began
    assert gauges[instruments.REMAINING.name, ()] > 0 and gauges[instruments.PROGRESS.name, ()] == 0.0

    with kept() as told:
        progress.quarantined = []
        metrics.report(progress.snapshot(), starting=1, places=places)
    assert not any(name == instruments.QUARANTINED.name for name, _ in told.gauges)
