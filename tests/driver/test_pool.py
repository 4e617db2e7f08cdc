"""What becomes of workers that fail, hang or are out of reach. Ray is played here: its actors live in this
process.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import Any

import pytest
from ray.core.generated.common_pb2 import ActorDiedErrorContext  # type: ignore[attr-defined]
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError

from ncbatch.driver.calibrations import calibrate
from ncbatch.driver.lost_calls import LostCall
from ncbatch.errors import RunError, StoppedByPolicyError
from ncbatch.worker.beats import Beat
from ncbatch.worker.worker import StoreFailure
from tests.driver.played_ray import (
    BROKEN,
    DONE,
    NEVER,
    Actor,
    Clock,
    Method,
    PlayedRay,
    Reference,
    begun,
    call,
    results,
)


def test_a_worker_whose_device_failed_is_replaced(start: Any, caplog: pytest.LogCaptureFixture) -> None:
    pool, ray = start([BROKEN])
    with caplog.at_level(logging.WARNING):
        lost = call(pool)
    assert lost == LostCall("device_failed", BROKEN.message)
    assert [actor.killed for actor in ray.actors] == [True, False], "another process, in a context of its own"
    assert call(pool) == DONE
    assert "the device of a worker (process 0 on cuda of node) failed" in caplog.text


def test_a_worker_that_raised_is_replaced(start: Any) -> None:
    """Whatever its code raised may have left the process in any state."""
    pool, ray = start([RayTaskError("run_unit", "a traceback", ValueError("no such"))])
    lost = call(pool)
    assert (lost.reason, lost.detail, lost.blameless) == (
        "internal_error",
        "ValueError: no such",
        False,
    )
    assert [actor.killed for actor in ray.actors] == [True, False]
    assert call(pool) == DONE


def test_no_device_that_can_be_calibrated_stops_the_run(start: Any) -> None:
    pool, _ = start([BROKEN] * 50)
    with pytest.raises(StoppedByPolicyError, match="illegal memory access"):
        calibrate(pool, ["v"], 1)
    pool, _ = start([BROKEN, 3e-6])
    assert calibrate(pool, ["v"], 1) == {"v": 3e-6}


def test_variants_are_measured_side_by_side(start: Any) -> None:
    pool, ray = start([NEVER], [NEVER], [NEVER])
    waits: list[int] = []

    def answers(references: list[Reference], **words: Any) -> Any:
        under_way = [slot.ref for slot in pool._slots if slot.flight is not None]
        if words.get("timeout"):
            waits.append(len(under_way))
            for seconds, reference in enumerate(under_way):
                reference.answer = (seconds + 1) * 1e-6
        return PlayedRay.wait(references, **words)

    ray.wait = answers
    assert set(calibrate(pool, ["a", "b", "a", "c"], 3)) == {"a", "b", "c"}
    assert waits == [3], "at once, and each once"


def test_a_variant_that_no_worker_can_encode_with_stops_the_run(start: Any) -> None:
    error = RayTaskError("calibrate", "traceback", ValueError("no such model"))
    pool, _ = start([error, error])
    with pytest.raises(RunError, match="no worker can encode with v: ValueError: no such model"):
        calibrate(pool, ["v"], 1)
    pool, _ = start([StoreFailure("access denied")] * 50)
    with pytest.raises(RunError, match="no worker can use the store: access denied"):
        calibrate(pool, ["v"], 1)


SICK = RayTaskError("calibrate", "traceback", ValueError("sick"))


@pytest.mark.parametrize("trouble", [BROKEN, StoreFailure("access denied"), SICK])
def test_one_sick_worker_does_not_stop_a_measurement(start: Any, trouble: Any) -> None:
    pool, _ = start([trouble] * 50, [3e-6])
    assert calibrate(pool, ["v"], 1) == {"v": 3e-6}


def test_a_worker_that_dies_over_a_measurement_is_replaced(start: Any) -> None:
    pool, ray = start([ActorDiedError(), 2e-6])
    ray.actors[0].killed = True  # its device is free for the next
    assert calibrate(pool, ["v"], 1) == {"v": 2e-6}


def test_calls_that_ended_while_the_driver_stood_still_are_collected(clock: Clock, start: Any) -> None:
    """However long that took: no worker is killed for it."""
    pool, ray = start([], [NEVER])
    begun(pool, patience=1.0)
    assert results(pool) == [DONE]
    begun(pool, patience=1.0)
    begun(pool, patience=1.0)
    clock.sleep(200.0)
    for slot in pool._slots:
        slot.ref.answer = DONE
    assert results(pool) == [DONE, DONE]
    assert not any(actor.killed for actor in ray.actors)
    begun(pool, patience=1.0)
    assert results(pool) == [DONE]


def test_a_call_that_ends_while_others_are_collected_is_not_killed(clock: Clock, start: Any) -> None:
    pool, ray = start([NEVER], [NEVER])
    begun(pool, patience=1.0)
    begun(pool, patience=1.0)
    assert not results(pool)
    fast, slow = [slot.ref for slot in pool._slots]
    fast.answer = DONE
    clock.sleep(2.0)
    for ended in pool.events(0.0):
        assert ended.result == DONE
        slow.answer = DONE
    assert not any(actor.killed for actor in ray.actors)
    assert results(pool) == [DONE]


def test_a_worker_that_reports_is_not_killed_however_long_it_takes(clock: Clock, start: Any) -> None:
    pool, ray = start([NEVER])
    begun(pool, patience=60.0)
    assert not results(pool)
    for step in range(100):
        clock.sleep(50.0)
        pool._board.report(Beat("attempt 0", 0.0, step))
        assert not results(pool)
    assert not ray.actors[0].killed
    assert pool.in_flight() == {"u": Beat("attempt 0", 0.0, 99)}
    ((flight, place, beat),) = pool.flights()
    assert (flight.attempt, beat) == ("attempt 0", Beat("attempt 0", 0.0, 99))
    assert place == pool.places()[0]


def test_nobody_is_killed_while_the_board_cannot_be_read(clock: Clock, start: Any) -> None:
    class Away:
        def read(self, attempts: Any, to_give_back: Any) -> dict[str, Any]:
            return {}

    pool, ray = start([NEVER])
    pool._board = Away()
    begun(pool, patience=60.0)
    clock.sleep(1000.0)
    assert not results(pool) and not ray.actors[0].killed


def test_a_hung_worker_is_killed_once_and_its_successor_bears_no_mark(
    clock: Clock, start: Any, caplog: pytest.LogCaptureFixture
) -> None:
    pool, ray = start([NEVER])
    begun(pool, patience=60.0)
    assert not results(pool)
    clock.sleep(59.0)
    assert not results(pool) and not ray.actors[0].killed
    clock.sleep(2.0)
    assert not results(pool) and ray.actors[0].killed
    assert not results(pool)
    assert caplog.text.count("process 0 on cuda of node) has shown no sign of life for 61 s") == 1
    pool._slots[0].ref.answer = ActorDiedError()
    (lost,) = results(pool)
    assert lost.reason == "deadline"
    while not pool.idle():
        assert not results(pool)
    begun(pool, patience=60.0)
    pool._slots[0].ref.answer, ray.actors[1].killed = ActorDiedError(), True
    (lost,) = results(pool)
    assert lost.reason == "process_killed", "of another call"


def test_an_answer_in_the_moment_of_the_kill_counts_and_the_dying_worker_gets_no_other_call(
    clock: Clock, start: Any
) -> None:
    pool, ray = start([NEVER])
    begun(pool, patience=1.0)
    assert not results(pool)
    clock.sleep(2.0)
    assert not results(pool) and ray.actors[0].killed
    pool._slots[0].ref.answer = DONE
    assert results(pool) == [DONE]
    assert not pool.idle() and len(ray.actors) == 2


def test_workers_out_of_reach_are_asked_again_without_waiting_for_each(clock: Clock, start: Any) -> None:
    pool, ray = start(*[[NEVER] for _ in range(256)])
    for _ in range(256):
        begun(pool, patience=60.0)
    for slot in pool._slots:
        slot.ref.answer = ActorUnavailableError("no connection", None)
    began = clock.now
    assert not results(pool) and pool.calling, "what has become of them is not known yet"
    assert clock.now == began, "0.5 s for each were two minutes"
    clock.sleep(1.0)
    lost: list[Any] = []
    while pool.ready_workers < 256:
        lost += results(pool)
    assert len(lost) == 256 and all(call.blameless for call in lost), "the calls were lost on their way"
    assert len(ray.actors) == 256 and not pool.calling, "they are the same processes"


def died(why: str) -> ActorDiedError:
    return ActorDiedError(ActorDiedErrorContext(error_message=why, actor_id=b"0" * 16))


@pytest.mark.parametrize("unreachable_first", [False, True])
@pytest.mark.parametrize(
    ("why", "blameless"),
    [
        ("The actor died because its node has died. Node Id: 02\n\tthe actor's node was terminated", True),
        ("The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR", False),
    ],
)
def test_the_loss_of_a_node_is_told_from_that_of_a_process(
    clock: Clock, start: Any, why: str, blameless: bool, unreachable_first: bool
) -> None:
    """Also where Ray says at first that the worker cannot be reached."""
    pool, ray = start([NEVER])
    begun(pool, patience=60.0)
    slot = pool._slots[0]
    if unreachable_first:
        ray.actors[0].ready = Method(lambda: died(why))
        slot.ref.answer = ActorUnavailableError("no connection", None)
        assert not results(pool) and pool.calling
        clock.sleep(1.0)
    else:
        slot.ref.answer = died(why)
    ray.actors[0].killed = True
    lost: list[Any] = []
    while not lost:
        lost = results(pool)
    (call,) = lost
    assert (call.reason, call.blameless, call.died) == ("process_killed", blameless, True)
    assert bool(pool.places()) is not blameless, "a successor starts there, unless the node is gone"
    while not pool.idle():
        assert not results(pool)
    assert len(ray.actors) == 2 and len(pool.places()) == 1


def test_a_node_on_which_no_worker_starts_does_not_stop_the_others(clock: Clock, start: Any) -> None:
    pool, ray = start([], [])
    good, bad = pool._slots
    begun(pool, patience=1000.0)
    good.ref.answer = NEVER
    dead = died("The actor is dead because its worker process has died.")

    def dies_at_start(config: Any) -> Actor:
        ray.actors.append(Actor(len(ray.actors), deque()))
        ray.actors[-1].ready = Method(lambda: dead)
        return ray.actors[-1]

    pool._actor_class = type("Class", (), {"remote": staticmethod(dies_at_start)})
    bad.info, bad.ref = None, Reference(dead)
    while clock.now < 600.0:
        assert not results(pool)
        clock.sleep(1.0)
    assert 10 < len(ray.actors) < 25, "the pauses between attempts grow"
    assert pool.stop_reason is None
    good.info = None
    assert pool.stop_reason is not None
