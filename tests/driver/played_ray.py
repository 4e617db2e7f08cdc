"""A Ray whose actors live in the process of the test, for tests of the pool of workers."""

from __future__ import annotations

from collections import deque
from typing import Any

from ncbatch.driver.pool import Pool
from ncbatch.driver.schedule import Call, CallKind
from ncbatch.plan.units import Unit
from ncbatch.worker.worker import DeviceFailure, WorkerInfo

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


def begun(pool: Pool, patience: float) -> None:
    """Gives the idle worker a call."""
    attempt = f"attempt {len(pool._heard)}"
    pool.call(pool.idle()[0], CALL, None, attempt, patience)  # type: ignore[arg-type]


def results(pool: Pool) -> list[Any]:
    return [ended.result for ended in pool.events(0.0)]
