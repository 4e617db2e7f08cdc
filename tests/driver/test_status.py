"""How far a run is, from its folder and from the driver's counts."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest

from ncbatch import layout
from ncbatch.driver.driver import Driver, SpeedEstimate, Work
from ncbatch.driver.forecast import Forecast
from ncbatch.driver.lease import Heartbeat, Lease, read_lease
from ncbatch.driver.limits import EarlierFailures, Policy
from ncbatch.driver.options import Deadlines
from ncbatch.driver.pool import Pool
from ncbatch.driver.progress import SHOWN_UNITS, Progress, UnitInFlight, read_status, write_status
from ncbatch.driver.steering import Steering
from ncbatch.driver.told_status import told_status
from ncbatch.errors import RunError
from ncbatch.metrics.summary import Summary
from ncbatch.metrics.unit_result import CommittedUnit, UnitResult
from ncbatch.plan.commits import Commits
from ncbatch.plan.run import committed_results
from ncbatch.plan.spec import RunSpec
from ncbatch.plan.status import RunStatus, run_status
from ncbatch.plan.units import Unit
from ncbatch.worker.unit import run_unit
from tests.workbench import ATTEMPTS, Workbench, make_image, make_variant


def _half_done(bench: Workbench) -> tuple[RunSpec, list[Unit]]:
    """Four units of one image each, two of them committed, one of these with a failed row."""
    bench.add({f"{n}.png": make_image(seed=n) for n in range(3)} | {"bad.png": b"text"})
    spec = bench.spec()
    units = list(bench.open(spec, pixels_per_unit=1).units)
    assert len(units) == 4
    for unit in (units[0], units[3]):
        run_unit(bench.workspace(spec), unit, ATTEMPTS[0], {})
    return spec, units


def test_a_folder_without_a_run_has_no_status(local: Workbench) -> None:
    with pytest.raises(RunError, match="holds no run"):
        run_status(local.output)


def test_a_planned_run(local: Workbench) -> None:
    local.add({"a.png": make_image()})
    spec = local.spec()
    local.open(spec)
    status = run_status(local.output)
    assert status.spec == spec
    assert (status.images, status.pending, status.units, status.committed_units) == (1, 1, 1, 0)
    assert (status.summary.ok, status.summary.mean_bpp) == (0, None)


def test_a_half_done_run(bench: Workbench) -> None:
    _half_done(bench)
    status = run_status(bench.output)
    assert (status.images, status.pending, status.units, status.committed_units) == (4, 2, 4, 2)
    assert (status.summary.ok, status.summary.failed) == (1, 1)
    assert status.summary.mean_bpp == bench.rows()["0.png"].bpp


def test_resuming_counts_what_is_there(local: Workbench) -> None:
    spec, units = _half_done(local)
    run = local.open(spec, pixels_per_unit=10**9)
    assert run.units == tuple(units), "the plan stands, whatever the workers' pace is now"
    assert run.pending == units[1:3]
    results = committed_results(run, Commits(local.output))
    row = local.rows()["0.png"]
    assert results == {
        units[0].id: UnitResult(1, 0, row.bpp or 0, row.psnr or 0, 0, row.image_bytes, row.length or 0),
        units[3].id: UnitResult(0, 1, 0, 0),
    }


def test_what_another_driver_planned_since_is_not_counted(local: Workbench) -> None:
    spec, _ = _half_done(local)
    run = local.open(spec)
    before = committed_results(run, Commits(local.output))
    local.add({"new.png": make_image()})
    (new,) = set(local.open(spec).units) - set(run.units)
    run_unit(local.workspace(spec), new, ATTEMPTS[1], {})
    now = replace(run, committed=run.committed | {new.id})
    assert committed_results(now, Commits(local.output)) == before


def test_an_image_to_be_done_again_is_pending(local: Workbench) -> None:
    spec, units = _half_done(local)
    for unit in units[1:3]:
        run_unit(local.workspace(spec), unit, ATTEMPTS[0], {})
    assert run_status(local.output).pending == 0
    local.add({"1.png": make_image(70, 70), "new.png": make_image()})
    run = local.open(spec)
    assert [(u.generation, [i.key for i in u.images]) for u in run.pending] == [(1, ["1.png", "new.png"])]
    status = run_status(local.output)
    assert (status.images, status.pending, status.summary.ok) == (5, 2, 3)
    run_unit(local.workspace(spec), run.pending[0], ATTEMPTS[1], {})
    status = run_status(local.output)
    assert (status.images, status.pending, status.summary.ok) == (5, 0, 4)


def test_the_drivers_word_is_what_one_finds(local: Workbench) -> None:
    local.add({f"{n}.png": make_image(seed=n) for n in range(3)} | {"bad.png": b"text"})
    spec = local.spec(make_variant(name="v"), make_variant(name="w"), make_variant(name="idle"))
    units = local.open(spec, pixels_per_unit=1).units
    for unit in (units[0], units[1], units[3], units[5]):
        run_unit(local.workspace(spec), unit, ATTEMPTS[0], {})
    run = local.open(spec)
    results = committed_results(run, Commits(local.output))
    pace = SpeedEstimate(dict.fromkeys(("v", "w", "idle"), 1.0))
    heartbeat = cast(Heartbeat, SimpleNamespace(driver="me"))
    driver = Driver(
        Work(run, results, EarlierFailures()), local.output, cast(Pool, None), heartbeat, pace,
        cast(Steering, None),
        policy=Policy(), deadlines=Deadlines(), show=lambda snapshot: None,
    )  # fmt: skip
    write_status(local.output, driver.progress.snapshot("me"))
    snapshot = read_status(local.output)
    assert snapshot is not None
    told, found = told_status(local.output, spec, snapshot), run_status(local.output)
    assert told is not None
    for mean in ("mean_bpp", "mean_psnr"):
        for one, other in zip(_summaries(told.summary), _summaries(found.summary), strict=True):
            assert getattr(one, mean) == pytest.approx(getattr(other, mean))
    assert _without_means(told) == _without_means(found)
    assert told.committed_units == 4 and told.inputs == 4 and told.pending == 8

    local.add({"new.png": make_image()})
    local.open(spec)
    assert told_status(local.output, spec, snapshot) is None, "more was planned since"


def _summaries(summary: Summary) -> list[Summary]:
    return [summary, *summary.variants.values()]


def _without_means(status: RunStatus) -> RunStatus:
    def bare(summary: Summary) -> Summary:
        variants = {name: bare(one) for name, one in summary.variants.items()}
        return replace(summary, mean_bpp=None, mean_psnr=None, variants=variants)

    return replace(status, summary=bare(status.summary))


def test_the_drivers_word_and_the_lease_are_read(local: Workbench) -> None:
    lease = Lease(local.output)
    lease.take(force=False)
    snapshot = Progress({"v": 4}, Forecast({})).snapshot(lease.driver)
    write_status(local.output, snapshot)
    assert read_status(local.output) == snapshot
    held = read_lease(local.output)
    assert held is not None and held.holder.startswith("process ")
    lease.release()
    local.output.put(layout.STATUS, b"{}")
    assert (read_status(local.output), read_lease(local.output)) == (None, None), "damage is no error"


# The driver's counts


def test_progress_counts_earlier_work_as_done_but_not_as_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 110.0])
    monkeypatch.setattr("ncbatch.driver.progress.time.monotonic", lambda: next(clock))
    progress = Progress({"v": 10}, Forecast({"a": 20.0, "b": 30.0}, done=50.0))
    progress.add("v", UnitResult(4, 1, bpp=4.0, psnr=90.0, exact=1), resumed=True)
    progress.forecast.tick(0.0, {"a": None}, 1)
    progress.add("v", UnitResult(2, 0, bpp=5.0, psnr=72.0))
    progress.forecast.committed("a", 20.0)
    now = progress.snapshot("me")
    assert (now.images, now.ok, now.failed, now.pending, now.resumed) == (10, 6, 1, 3, 5)
    assert (now.mean_bpp, now.mean_psnr) == (9.0 / 6, 162.0 / 5)
    assert now.images_per_second == pytest.approx(2 / 10)
    assert (now.fraction, now.eta_seconds) == (0.7, 30.0)


def test_before_the_first_commit_the_calibration_is_the_pace() -> None:
    progress = Progress({"v": 2}, Forecast({"a": 5.0}, done=5.0))
    progress.add("v", UnitResult(0, 1, 0.0, 0.0), resumed=True)
    now = progress.snapshot()
    assert (now.mean_bpp, now.mean_psnr, now.images_per_second) == (None,) * 3
    assert (now.state, now.pending, now.fraction, now.eta_seconds) == ("starting", 1, 0.5, 5.0)


def test_a_run_that_finishes_tells_when_the_units_in_flight_are_done() -> None:
    progress = Progress({"v": 2}, Forecast({"a": 5.0, "b": 70.0}))
    progress.forecast.tick(0.0, {"a": None}, 1)
    progress.state = "running"
    assert progress.snapshot().eta_seconds == 75.0
    progress.state = "finishing"
    assert progress.snapshot().eta_seconds == 5.0


def test_several_variants_are_counted_apart() -> None:
    progress = Progress({"jpeg": 3, "sga": 3}, Forecast({}))
    progress.add("jpeg", UnitResult(2, 1, bpp=4.0, psnr=60.0))
    progress.add("sga", UnitResult(1, 0, bpp=0.5, psnr=33.0))
    now = progress.snapshot()
    assert (now.images, now.ok, now.failed, now.noun) == (6, 3, 1, "encodings")
    assert (now.mean_bpp, now.mean_psnr) == (None, None), "a mean over different codecs says nothing"
    assert [(v.name, v.images, v.ok, v.failed, v.mean_bpp, v.mean_psnr) for v in now.variants] == [
        ("jpeg", 3, 2, 1, 2.0, 30.0),
        ("sga", 3, 1, 0, 0.5, 33.0),
    ]


def test_a_snapshot_names_the_units_that_are_longest_at_work_and_why_images_failed() -> None:
    progress = Progress({"v": 500}, Forecast({}))
    progress.in_flight = [
        UnitInFlight(unit=f"u{n}", variant="v", images=4, worker=f"process {n}", fraction=None, seconds=n)
        for n in range(SHOWN_UNITS + 6)
    ]
    progress.add("v", CommittedUnit(2, 2, 1.0, 60.0, classes={"truncated": 2}))
    progress.add("v", CommittedUnit(2, 1, 1.0, 60.0, classes={"empty": 1}))
    progress.add("v", UnitResult(0, 1, 0.0, 0.0), resumed=True)
    now = progress.snapshot()
    assert (now.busy_workers, now.images_in_flight) == (SHOWN_UNITS + 6, 4 * (SHOWN_UNITS + 6))
    assert [unit.seconds for unit in now.in_flight] == list(range(SHOWN_UNITS + 5, 5, -1))
    assert (now.failures, now.failed) == ({"truncated": 2, "empty": 1}, 4)


def test_a_snapshot_comes_back(local: Workbench) -> None:
    assert read_status(local.output) is None
    snapshot = Progress({"v": 3}, Forecast({})).snapshot("me")
    write_status(local.output, snapshot)
    write_status(local.output, snapshot)
    assert read_status(local.output) == snapshot
