"""What becomes of workers that fail, hang or are out of reach. Ray is played here: its actors live in this
process.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from ray.core.generated.common_pb2 import ActorDiedErrorContext  # type: ignore[attr-defined]
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError

from ncbatch.driver import lost_calls as lost_calls_module
from ncbatch.driver import pool as pool_module
from ncbatch.driver.calibrations import calibrate
from ncbatch.driver.cluster_view import ClusterView, Node
from ncbatch.driver.elastic import Elastic
from ncbatch.driver.lost_calls import LostCall
from ncbatch.driver.options import PoolConfig
from ncbatch.driver.pool import Pool
from ncbatch.driver.schedule import Call, CallKind
from ncbatch.errors import RunError, StoppedByPolicyError
from ncbatch.plan.units import Unit
from ncbatch.worker.beats import Beat, Board
from ncbatch.worker.worker import DeviceFailure, GivenBack, StoreFailure, WorkerInfo

CALL = Call("u", CallKind.UNIT, 1)
BROKEN = DeviceFailure("cuda: an illegal memory access was encountered")
DONE = "done"


class Reference:
    """What a call gives at once; its answer is there already, or comes once it is set."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer


NEVER = object()
"""The answer of a call that goes on."""


class Method:
    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def remote(self, *_: Any) -> Reference:
        return Reference(self._answer())


class Actor:
    """A worker process on a device, which answers one call after the other, and at last always with DONE."""

    def __init__(self, pid: int, device: deque[Any]) -> None:
        self.device, self.killed = device, False
        self.ready = Method(lambda: WorkerInfo("node", pid, "cuda"))
        self.run_unit = self.calibrate = Method(lambda: device.popleft() if device else DONE)


class Clock:
    """Time that passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class PlayedRay:
    """A cluster with some devices; an actor is given the first that no living one holds, or waits for one."""

    def __init__(self, *devices: deque[Any]) -> None:
        self._devices = devices
        self.actors: list[Actor] = []

    def actor_class(self, config: Any = None) -> Actor:
        held = [id(actor.device) for actor in self.actors if not actor.killed]
        free = [device for device in self._devices if id(device) not in held]
        actor = Actor(len(self.actors), *free[:1] or [deque()])
        if not free:
            actor.ready = Method(lambda: NEVER)
        self.actors.append(actor)
        return actor

    def kill(self, actor: Actor, *, no_restart: bool = True) -> None:
        actor.killed = True

    @staticmethod
    def wait(references: list[Reference], *, num_returns: int = 1, **_: Any) -> tuple[list[Reference], None]:
        return [reference for reference in references if reference.answer is not NEVER][:num_returns], None

    @staticmethod
    def get(reference: Reference, **_: Any) -> Any:
        if isinstance(reference.answer, Exception):
            raise reference.answer
        return reference.answer


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Pool, PlayedRay]]:
    """Starts a pool of a worker on each device, with a board that goes by the clock that is played."""

    def started(*devices: list[Any]) -> tuple[Pool, PlayedRay]:
        ray = PlayedRay(*map(deque, devices))
        for module in (pool_module, lost_calls_module):
            monkeypatch.setattr(module, "ray", ray)
        pool = Pool(None, PoolConfig(workers=len(devices), gpus=1.0))  # type: ignore[arg-type]
        pool._board = Board(pool_module.time.monotonic)  # type: ignore[assignment]
        pool._actor_class = type("Class", (), {"remote": staticmethod(ray.actor_class)})
        pool.grow(len(devices))
        while pool.ready_workers < len(devices):
            assert not list(pool.events(0.0))
        return pool, ray

    return started


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pool_module, "time", clock)
    return clock


def call(pool: Pool) -> Any:
    """Gives an idle worker a call, and returns what comes of it."""
    while not pool.idle():
        assert not list(pool.events(0.0))
    unit: Unit = None  # type: ignore[assignment]
    pool.call(pool.idle()[0], CALL, unit, "attempt", 60.0)
    while True:
        for ended in pool.events(0.0):
            assert ended.call is CALL and ended.place.node == "node"
            return ended.result


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


def begun(pool: Pool, patience: float) -> None:
    """Gives the idle worker a call."""
    attempt = f"attempt {len(pool._heard)}"
    pool.call(pool.idle()[0], CALL, None, attempt, patience)  # type: ignore[arg-type]


def results(pool: Pool) -> list[Any]:
    return [ended.result for ended in pool.events(0.0)]


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


class Watch:
    """A cluster that changes as the test says."""

    def __init__(self, *nodes: Node) -> None:
        self.view = ClusterView(nodes)


@pytest.fixture
def elastic(start: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Pool, PlayedRay, Watch]]:
    """A pool in a cluster that may grow; its workers say that they are on the first node."""

    def started(*devices: list[Any], node: Node) -> tuple[Pool, PlayedRay, Watch]:
        pool, ray = start(*devices)
        watch = Watch(node)
        pool._watch, pool._elastic = watch, Elastic(PoolConfig(), may_grow=True)
        monkeypatch.setattr(pool, "_recruit", lambda needs: setattr(pool, "_needs", needs))
        for slot in pool._slots:
            slot.info = replace(slot.info, node=node.id)
        return pool, ray, watch

    return started


CPUS = Node("cpus", {"CPU": 2.0})


def test_workers_without_work_are_given_back_and_busy_ones_are_not(elastic: Any) -> None:
    pool, ray, _ = elastic([NEVER], [], [DONE], node=Node("n", {"CPU": 3.0, "GPU": 3.0}))
    begun(pool, patience=60.0)
    pool.grow(3)
    assert pool.size == 3
    pool.grow(1)
    assert [actor.killed for actor in ray.actors] == [False, True, True]
    assert pool.calling and pool.size == 1


def test_workers_that_wait_for_room_are_the_first_to_be_given_back(elastic: Any) -> None:
    pool, ray, _ = elastic([], node=Node("n", {"CPU": 1.0, "GPU": 1.0}))
    pool.grow(1000)
    assert not results(pool)
    assert len(ray.actors) == 1 + 4 and (pool.size, pool.ready_workers) == (1, 1), "only one has room"
    pool.grow(1)
    assert [actor.killed for actor in ray.actors] == [False] + [True] * 4


def test_a_worker_whose_node_is_to_be_taken_away_gives_its_unit_back(elastic: Any) -> None:
    node = Node("n", {"CPU": 1.0, "GPU": 1.0})
    pool, ray, watch = elastic([NEVER], [], node=node)
    pool._slots[1].info = replace(pool._slots[1].info, node="other")
    begun(pool, patience=60.0)
    pool.grow(2)
    assert not results(pool)
    assert pool._board.report(Beat("attempt 0", 0.1)) is False
    watch.view = ClusterView((replace(node, draining=True), replace(node, id="other")))
    pool.grow(2)
    assert not ray.actors[0].killed, "it saves its state first"
    assert not results(pool)
    assert pool._board.report(Beat("attempt 0", 0.2)) is True
    pool._slots[0].ref.answer = GivenBack()
    assert results(pool) == [GivenBack()]
    pool.grow(2)
    assert ray.actors[0].killed and not ray.actors[1].killed
    assert call(pool) == DONE


def test_a_worker_that_was_ended_by_its_machine_gets_no_other_unit(elastic: Any) -> None:
    """It has had its SIGTERM, of which the cluster knows nothing."""
    pool, ray, _ = elastic([GivenBack()], node=Node("n", {"CPU": 1.0, "GPU": 1.0}))
    assert call(pool) == GivenBack()
    assert not pool.idle()
    pool.grow(1)
    assert ray.actors[0].killed and len(ray.actors) == 2


def test_gpus_that_join_are_used_and_cpus_are_given_up(elastic: Any) -> None:
    pool, ray, watch = elastic([NEVER], [], node=CPUS)
    pool._needs = {"CPU": 1.0, "GPU": 0.0}
    for slot in pool._slots:
        slot.needs = pool._needs
    begun(pool, patience=60.0)
    pool.grow(2)
    assert pool.room == 2 and not any(actor.killed for actor in ray.actors)
    watch.view = ClusterView((CPUS, Node("gpus", {"CPU": 8.0, "GPU": 1.0})))
    pool.grow(1)
    assert [actor.killed for actor in ray.actors] == [False, True, False]
    assert pool.room == 1 and pool.size == 1
    assert not results(pool)
    assert pool._board.report(Beat("attempt 0", 0.1)) is True, "a GPU goes on from where the CPU is"
