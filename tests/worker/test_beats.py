"""Signs of life: what counts as one, and who is silent."""

from __future__ import annotations

import pytest

from ncbatch.codec.methods import Jpeg
from ncbatch.plan.spec import RunSpec
from ncbatch.plan.units import PlannedImage, Unit
from ncbatch.store.waiting import told_of_waiting, waits
from ncbatch.worker import unit_progress
from ncbatch.worker.beats import Beat, Board, GiveBack, Heard
from ncbatch.worker.unit import run_unit
from ncbatch.worker.unit_progress import UnitProgress
from tests.workbench import ATTEMPTS, Workbench, make_image, make_variant, sga
from tests.worker.test_pack_units import planned, refined


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_board_forgets_attempts_that_are_over() -> None:
    board = Board()
    for attempt in ("a", "b"):
        board.report(Beat(attempt, 0.5))
    board.report(Beat("a", 0.6))
    assert {name: heard.beat for name, heard in board.read(["a", "c"]).items()} == {
        "a": Beat("a", 0.6),
        "c": None,
    }
    assert {name: heard.beat for name, heard in board.read(["a", "b"]).items()} == {
        "a": Beat("a", 0.6),
        "b": None,
    }


def test_silence_is_since_something_new_was_heard(clock: Clock) -> None:
    board = Board(clock)
    assert board.read(["a"]) == {"a": Heard(None, 0.0)}, (
        "the board has only now heard that there is such a call"
    )
    clock.now += 5
    assert board.read(["a"]) == {"a": Heard(None, 5.0)}
    board.report(Beat("a", 0.1, step=10))
    clock.now += 7
    board.report(Beat("a", 0.1, step=10))
    clock.now += 1
    assert board.read(["a"])["a"].silent == 8.0, "a beat that says the same is none"
    board.report(Beat("a", 0.1, step=10, signs=1))
    assert board.read(["a"])["a"].silent == 0.0


def test_a_board_that_was_started_again_takes_nobody_for_silent(clock: Clock) -> None:
    board = Board(clock)
    board.read(["a"])
    clock.now += 1000
    board = Board(clock)
    assert board.read(["a"])["a"].silent == 0.0


def test_a_driver_that_stands_still_takes_nobody_for_silent(clock: Clock) -> None:
    board = Board(clock)
    board.read(["a"])
    for step in range(100):
        clock.now += 10
        board.report(Beat("a", step / 100, step))
    assert board.read(["a"])["a"].silent == 0.0


def test_a_worker_is_asked_to_give_its_work_back_by_the_answer_to_a_beat() -> None:
    board = Board()
    board.read(["a", "b"], ["a"])
    unit = Unit("u", "v", 0, (PlannedImage("a.png", "e", 1, 8, 8),))
    stays, goes = (UnitProgress(unit, name, Jpeg(quality=50), board.report) for name in ("b", "a"))
    for progress in (stays, goes):
        progress.go_on()
        progress.alive()
    stays.go_on()
    with pytest.raises(GiveBack):
        goes.go_on()


def _given_back(bench: Workbench, spec: RunSpec, unit: Unit) -> None:
    """Does a unit with a worker that is asked to give it back in its middle, and then with another."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unit_progress, "_SECONDS", 0.0)
        with pytest.raises(GiveBack):
            run_unit(bench.workspace(spec, report=lambda beat: beat.fraction > 0.4), unit, ATTEMPTS[0], {})
        assert not bench.keys("units/") and bench.keys("wip/"), "saved at once, not after a minute"
        said: list[Beat] = []
        run_unit(bench.workspace(spec, report=said.append), unit, ATTEMPTS[1], {})
    assert any(beat.begun_at > 0 for beat in said), "it went on from the state"
    assert {row.status for row in bench.rows().values()} == {"ok"} and len(bench.rows()) == 3


def test_a_unit_is_given_back_with_its_state_and_others_go_on(local: Workbench) -> None:
    local.add({f"{n}.png": make_image(seed=n) for n in range(3)})
    spec = local.spec(make_variant(sga(steps=50)))
    _given_back(local, spec, local.unit(spec))
    assert [row.adopted for row in local.rows().values()] == [True, False, False], "done before the notice"


def test_a_pack_is_given_back_with_its_state(local: Workbench) -> None:
    _given_back(local, *planned(local, refined(steps=50)))


def _progress(said: list[Beat]) -> UnitProgress:
    clock = iter(range(1000))
    unit = Unit("u", "v", 0, (PlannedImage("a.png", "e", 1, 8, 8),))
    return UnitProgress(unit, "t", Jpeg(quality=50), said.append, None, lambda: float(next(clock)))


def test_waiting_for_a_store_is_a_sign_of_life() -> None:
    said: list[Beat] = []
    progress = _progress(said)
    with told_of_waiting(progress.alive):
        waits()
        waits()
    waits()
    assert said == [Beat("t", 0.0, signs=1), Beat("t", 0.0, signs=2)]


def test_every_step_and_image_of_a_unit_is_a_sign_of_life(
    local: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unit_progress, "_SECONDS", 0.0)
    local.add({f"{n}.png": make_image(seed=n) for n in range(2)})
    spec = local.spec(make_variant(sga(steps=20)))
    said: list[Beat] = []
    run_unit(local.workspace(spec, report=said.append), local.unit(spec), ATTEMPTS[0], {})
    assert len(said) == 2 * 5, "an image opened, steps 0, 10 and 20, an image done"
    assert {beat.step for beat in said} == {0, 10, 20}
    assert (said[-1].fraction, said[-1].signs) == (1.0, 2)
