"""How much is done and how long the rest takes: workers' beats, and the forecast of a simulated session."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import pytest

from ncbatch.codec.methods import Jpeg, SgaBitsBack
from ncbatch.driver.forecast import Forecast
from ncbatch.plan.units import PlannedImage, Unit
from ncbatch.worker.beats import Beat
from ncbatch.worker.unit import run_unit
from ncbatch.worker.unit_progress import UnitProgress
from tests.workbench import ATTEMPTS, Workbench, make_image, make_variant, sga


def at(fraction: float, begun_at: float = 0.0) -> Beat:
    return Beat("attempt", fraction, begun_at=begun_at)


@dataclass(frozen=True)
class Moment:
    now: float
    eta: float
    fraction: float
    committed: int


def simulate(work: dict[str, float], *, workers: int, pace: float, beat: float = 2.5) -> Iterator[Moment]:
    """A session in which every worker does `pace` expected seconds of work in a second.

    The longest units go first; a worker's beats arrive every `beat` seconds, the driver ticks twice a second.
    """
    forecast = Forecast(work)
    waiting = sorted(work, key=lambda unit: -work[unit])
    calls: list[tuple[float, str, float]] = []  # end, unit, start
    now = 0.0
    while waiting or calls:
        while calls and calls[0][0] <= now:
            forecast.committed(heapq.heappop(calls)[1], now)
        while waiting and len(calls) < workers:
            unit = waiting.pop(0)
            heapq.heappush(calls, (now + work[unit] / pace, unit, now))
        flight: dict[str, Beat | None] = {}
        for _, unit, start in calls:
            beats = (now - start) // beat
            flight[unit] = at(beats * beat * pace / work[unit]) if beats else None
        forecast.tick(now, flight, workers)
        yield Moment(now, forecast.eta_seconds, forecast.fraction, len(work) - len(waiting) - len(calls))
        now += 0.5


UNITS = {"a": 60.0, "b": 55.0, "c": 40.0, "d": 40.0, "e": 30.0, "f": 20.0}


def climbs(moments: list[Moment]) -> list[float]:
    """How much the forecast of the end is put off from one tick to the next."""
    return [b.eta - a.eta for a, b in pairwise(moments)]


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("beat", [0.5, 2.5, 11.0])
def test_a_session_at_the_calibrated_pace(workers: int, beat: float) -> None:
    moments = list(simulate(UNITS, workers=workers, pace=1.0, beat=beat))
    total = moments[-1].now
    assert max(climbs(moments)) < 0.5, "the time left only falls"
    for moment in moments:
        assert moment.now + moment.eta == pytest.approx(total, abs=2.0)
    assert moments[0].fraction == 0 and moments[-1].fraction == 1
    fractions = [m.fraction for m in moments]
    assert fractions == sorted(fractions)


@pytest.mark.parametrize("pace", [0.5, 0.7, 1.5, 2.0])
def test_a_wrong_calibration_is_found_out_by_the_first_steps(pace: float) -> None:
    moments = list(simulate(UNITS, workers=2, pace=pace))
    total = moments[-1].now
    assert moments[0].eta == pytest.approx(total * pace, rel=0.05), (
        "before anything is known: the calibration"
    )
    later = [m for m in moments if m.now > 0.25 * total]
    assert later[0].committed == 0, "long before the first commit"
    for moment in later:
        assert moment.now + moment.eta == pytest.approx(total, rel=0.25)
    assert max(climbs([m for m in moments if m.now > 0.35 * total])) < 1.0


def test_images_in_flight_count_by_their_steps() -> None:
    forecast = Forecast({"a": 30.0, "b": 10.0}, done=60.0)
    assert forecast.fraction == 0.6
    forecast.tick(0.0, {"a": None}, 1)
    forecast.tick(15.0, {"a": at(0.5)}, 1)
    assert forecast.fraction == pytest.approx(0.75)
    assert forecast.eta_seconds == pytest.approx(25.0)
    forecast.committed("a", 30.0)
    assert forecast.fraction == pytest.approx(0.9)


def test_a_run_that_finishes_ends_with_what_is_in_flight() -> None:
    forecast = Forecast({"a": 30.0, "b": 10.0, "c": 500.0})
    assert forecast.flight_seconds is None
    forecast.tick(0.0, {"a": None, "b": None}, 2)
    forecast.tick(3.0, {"a": at(0.1), "b": at(0.3)}, 2)
    assert forecast.flight_seconds == pytest.approx(27.0)
    assert forecast.eta_seconds > 500
    forecast.committed("a", 30.0)
    forecast.tick(30.0, {}, 2)
    assert forecast.flight_seconds is None


def test_what_a_dead_worker_had_done_does_not_count() -> None:
    forecast = Forecast({"a": 100.0})
    forecast.tick(0.0, {"a": at(0.0)}, 1)
    forecast.tick(40.0, {"a": at(0.4)}, 1)
    assert forecast.eta_seconds == pytest.approx(60.0)
    forecast.tick(41.0, {}, 1)  # its worker died
    assert forecast.fraction == 0
    assert forecast.eta_seconds > 100, "the time is lost, too"
    forecast.tick(42.0, {"a": at(0.3, begun_at=0.3)}, 1)  # goes on from what was saved
    assert forecast.fraction == pytest.approx(0.3)
    assert forecast.eta_seconds > 70


def test_work_of_an_earlier_attempt_is_no_pace_of_this_one() -> None:
    forecast = Forecast({"a": 100.0, "b": 100.0})
    forecast.tick(0.0, {"a": None}, 1)
    forecast.tick(1.0, {"a": at(0.9, begun_at=0.9)}, 1)  # resumed
    assert forecast.eta_seconds == pytest.approx(110.0, rel=0.1)


def test_a_silent_worker_is_not_believed_for_ever() -> None:
    forecast = Forecast({"a": 100.0})
    forecast.tick(0.0, {"a": at(0.0)}, 1)
    forecast.tick(10.0, {"a": at(0.1)}, 1)
    etas = []
    for now in range(11, 400):
        forecast.tick(float(now), {"a": at(0.1)}, 1)
        etas.append(forecast.eta_seconds)
    assert etas[40] < etas[0], "for a while it counts down"
    assert etas[-1] > 300, "then it is slow"


def test_many_units_cost_little() -> None:
    work = {str(n): 1.0 + n % 7 for n in range(100_000)}
    forecast = Forecast(work)
    forecast.tick(0.0, {"6": at(0.0)}, 10)
    assert forecast.eta_seconds == pytest.approx(sum(work.values()) / 10, rel=0.01)


def test_nothing_left_is_all_done() -> None:
    assert (Forecast({}).fraction, Forecast({}, 5.0).eta_seconds) == (1.0, 0.0)


# What workers say


def _unit(*pixels: int) -> Unit:
    images = tuple(PlannedImage(f"{n}.png", "e", 1, side, 1) for n, side in enumerate(pixels))
    return Unit("u", "v", 0, images)


def test_a_unit_is_as_far_as_its_pixels_are() -> None:
    said: list[Beat] = []
    clock = iter([0.0, 0.5, 2.0, 4.0, 4.5, 6.0])
    unit = _unit(100, 300)
    progress = UnitProgress(unit, "t", sga(steps=10), said.append, None, lambda: next(clock))
    progress.at_steps(unit.images[:1], [0], [False])
    progress.at_steps(unit.images[:1], [5], [False])
    progress.at_steps(unit.images[:1], [10], [False])
    progress.done("0.png")
    progress.at_steps(unit.images[1:], [0], [False])
    progress.at_steps(unit.images[1:], [5], [False])
    assert said == [Beat("t", 0.0, 0), Beat("t", 0.25, 10), Beat("t", 0.25, 10), Beat("t", 0.625, 5)]
    assert progress.fraction == 0.625


def test_an_image_that_has_converged_counts_as_done() -> None:
    unit = _unit(100, 300)
    progress = UnitProgress(unit, "t", sga(steps=10), None)
    progress.at_steps(unit.images, [5, 5], [False, True])
    assert progress.fraction == (0.5 * 100 + 300) / 400


def test_steps_are_a_part_only_where_inference_follows() -> None:
    recipe = SgaBitsBack(lmbda=0.01, steps=100, bbvi_steps=50)
    progress = UnitProgress(_unit(10), "t", recipe, None)
    progress.at_steps(_unit(10).images, [100], [False])
    assert progress.fraction == 0.5
    progress.done("0.png")
    assert progress.fraction == 1


def test_classical_codecs_have_no_steps() -> None:
    progress = UnitProgress(_unit(10, 10), "t", Jpeg(quality=50), None)
    progress.done("0.png")
    assert progress.fraction == 0.5


def test_a_worker_reports_and_goes_on_counting_where_an_earlier_attempt_was(local: Workbench) -> None:
    local.add({"a.png": make_image(64, 64), "b.png": make_image(64, 64, seed=1)})
    spec = local.spec(make_variant(sga(steps=30)))
    unit = local.unit(spec)
    said: list[Beat] = []

    def report(beat: Beat) -> None:
        said.append(beat)
        if beat.step == 20:
            raise KeyboardInterrupt

    workspace = local.workspace(spec, report=report, wip_seconds=0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ncbatch.worker.unit_progress._SECONDS", 0.0)
        with pytest.raises(KeyboardInterrupt):
            run_unit(workspace, unit, ATTEMPTS[0], {})
        assert list(dict.fromkeys(beat.step for beat in said)) == [0, 10, 20]
        first = unit.images[0].pixels / unit.pixels
        assert said[-1].fraction == pytest.approx(first * 20 / 30)
        said.clear()
        again = local.workspace(spec, report=said.append)
        run_unit(again, unit, ATTEMPTS[1], {})
    assert {beat.attempt for beat in said} == {ATTEMPTS[1]}
    resumed = next(beat for beat in said if beat.step)
    assert resumed.step == 10, "the state that was saved"
    assert resumed.begun_at == resumed.fraction == pytest.approx(first * 10 / 30)
    assert said[-1].fraction == 1
    fractions = [beat.fraction for beat in said]
    assert fractions == sorted(fractions)
