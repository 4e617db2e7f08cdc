"""The workers of a run as Ray actors: started, called, killed and replaced. Nothing here waits for Ray's GCS.

`max_restarts=0, max_task_retries=0`: a dead actor is replaced here. Ray would restart one that dies in its
constructor for ever and in silence, and it tells of a preempted node only for actors it does not restart.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from types import TracebackType
from typing import Any

import ray

from ncbatch.driver.board import BoardReader
from ncbatch.driver.cluster import start_ray
from ncbatch.driver.cluster_view import ClusterView, ClusterWatch, this_node
from ncbatch.driver.elastic import Aim, Elastic, Needs
from ncbatch.driver.lost_calls import LostCall, outcome
from ncbatch.driver.options import PoolConfig
from ncbatch.driver.schedule import Call
from ncbatch.driver.shared_models import share_models
from ncbatch.driver.slots import Flight, Measurement, Slot
from ncbatch.plan.units import Unit
from ncbatch.worker.beats import Beat, Heard
from ncbatch.worker.worker import GivenBack, Worker, WorkerConfig, WorkerInfo

log = logging.getLogger(__name__)

_SCARCE_SECONDS = 60.0
_FAILED_STARTS = 3
"""Workers lost in a row before they did anything, besides one per worker, that stop the run."""
_DEVICE_FAILURES = 3
"""In a row, on different units where there are any, that retire a worker while another one works."""
_CALIBRATION_SECONDS = 1800.0  # only a hang takes longer
_BLINK_SECONDS = 0.5  # before a worker that could not be reached is tried again
_LOGS = "look at the workers' logs, worker-*.err in the logs/ folder of Ray's session"


class Pool:
    """Workers, one call in flight each.

    Costs nothing until `start`: a run with nothing left to do needs no Ray.

    Args:
        config: what every worker is told.
        address: of the cluster, see `start_ray`.
    """

    def __init__(self, config: WorkerConfig, size: PoolConfig, address: str | None = None) -> None:
        self._config, self._address = config, address
        self._elastic = Elastic(size, may_grow=False)
        self._needs = self._elastic.needs(ClusterView())
        self._actor_class: Any = None
        self._board: BoardReader | None = None
        self._watch: ClusterWatch | None = None
        self._heard: dict[str, Heard] = {}
        self._slots: list[Slot] = []
        self._none_since = time.monotonic()
        self._warned = False
        self._failed_starts = 0
        self._last_failure = ""

    def start(self) -> None:
        """Connects to Ray, or starts it, unless that has been done.

        Raises:
            NcbatchError: no cluster answers, or it can never have such workers.
        """
        if self._actor_class is not None:
            return
        self._elastic = Elastic(self._elastic.size, may_grow=start_ray(self._address, self._elastic.size))
        self._watch = ClusterWatch()
        self._board = BoardReader()
        source = share_models(self._config.output, self._config.spec.models)
        self._config = replace(self._config, report=self._board.pen, source=source, node=this_node)
        self._recruit(self._elastic.needs(self._view))
        self._none_since = time.monotonic()

    def _recruit(self, needs: Needs) -> None:
        """From now on starts workers that need this."""
        self._needs = needs
        self._actor_class = ray.remote(Worker).options(
            num_cpus=needs["CPU"], num_gpus=needs["GPU"], max_restarts=0, max_task_retries=0
        )

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends all workers at once, and the local Ray with them."""
        if self._watch is not None:
            self._watch.close()
        for slot in self._slots:
            ray.kill(slot.actor, no_restart=True)
        self._slots.clear()
        if self._board is not None:
            self._board.close()
        ray.shutdown()

    @property
    def stop_reason(self) -> str | None:
        """Why it is no use to go on, or None."""
        if self._failed_starts < _FAILED_STARTS + self.size:
            return None
        return f"{self._failed_starts} workers died while starting (last: {self._last_failure}); {_LOGS}"

    def grow(self, wanted: int) -> None:
        """Starts workers up to `wanted`, or up to what the cluster has room for or may grow to.

        Gives back those that are too many, or that stand where others should: on a node that is about to be
        taken away, or on CPUs where GPUs have joined. A worker that is busy ends its call first.
        """
        if not wanted:
            return
        self.start()
        aim = self._elastic.aim(self._view, wanted, self._needs)
        if aim.needs != self._needs:
            log.info("GPUs have joined the cluster: workers use them from now on")
            self._recruit(aim.needs)
        self._give_back(aim)
        for _ in range(aim.workers - self._counted):
            slot = Slot(self._actor_class.remote(self._config), self._needs)
            slot.ref = slot.actor.ready.remote()
            self._slots.append(slot)

    def _give_back(self, aim: Aim) -> None:
        for slot in self._slots:
            if not slot.leaving and self._is_out_of_place(slot):
                log.info("a worker (%s) gives back what it is at, for another node to do", slot.place)
                slot.leaving = True
        surplus = self._counted - aim.workers
        for slot in sorted(self._slots, key=lambda slot: slot.info is not None):  # first those without room
            if slot.flight is not None or slot.retired:
                continue
            surplus -= not slot.leaving
            if slot.leaving or surplus >= 0:
                ray.kill(slot.actor)
                self._slots.remove(slot)

    def _is_out_of_place(self, slot: Slot) -> bool:
        """Whether its node is about to be taken away, or it holds CPUs that workers with GPUs need."""
        drained = slot.info is not None and slot.info.node in self._view.draining
        return drained or slot.needs != self._needs

    @property
    def _counted(self) -> int:
        return sum(not slot.leaving for slot in self._slots)

    @property
    def _view(self) -> ClusterView:
        return self._watch.view if self._watch is not None else ClusterView()

    @property
    def room(self) -> int:
        """How many workers there may be at present."""
        return self._elastic.room(self._view, self._needs)

    @property
    def ready_workers(self) -> int:
        """How many workers have started."""
        return sum(slot.info is not None for slot in self._slots)

    @property
    def size(self) -> int:
        """Workers, those that are still starting included, but not those that wait for room."""
        return min(self._counted, self.room)

    @property
    def calling(self) -> bool:
        """Whether a call is in flight."""
        return any(slot.flight is not None for slot in self._slots)

    @property
    def has_idle(self) -> bool:
        """Whether a worker waits for a call."""
        return any(slot.idle for slot in self._slots)

    def call(self, call: Call, unit: Unit, attempt: str, patience: float) -> None:
        """Gives an idle worker something to do.

        Args:
            attempt: the name of this execution.
            patience: seconds without a sign of life, after which the worker counts as hung and is killed.
        """
        slot = self._next_idle()
        if call.image is None:
            slot.ref = slot.actor.run_unit.remote(unit, attempt, call.poisoned)
        else:
            slot.ref = slot.actor.probe.remote(unit, attempt, call.image)
        slot.flight = Flight(call, attempt, patience, time.monotonic())

    def in_flight(self) -> dict[str, Beat | None]:
        """The units being done, and the last beat of each; None: none has arrived. Never waits."""
        flights = [slot.flight for slot in self._slots if slot.flight is not None]
        return {
            flight.call.unit: self._heard[flight.attempt].beat if flight.attempt in self._heard else None
            for flight in flights
            if isinstance(flight.call, Call) and flight.call.image is None
        }

    def measure(self, call: Measurement) -> None:
        """Lets an idle worker measure how long a variant takes, which gives no sign of life meanwhile."""
        slot = self._next_idle()
        slot.ref = slot.actor.calibrate.remote(call.variant)
        slot.flight = Flight(call, f"calibration of {call.variant}", _CALIBRATION_SECONDS, time.monotonic())

    def _next_idle(self) -> Slot:
        return min((slot for slot in self._slots if slot.idle), key=lambda slot: slot.device_failures)

    def events(self, timeout: float) -> Iterator[tuple[Call | Measurement, Any, float]]:
        """Waits up to `timeout` seconds and yields calls that ended: (call, result or LostCall, seconds).

        Whatever has ended is collected before a worker is killed as hung.
        """
        self._ask_again()
        refs = {slot.ref: slot for slot in self._slots if slot.ref is not None}
        if not refs:
            time.sleep(timeout)
        elif ray.wait(list(refs), num_returns=1, timeout=timeout)[0]:
            for ref in ray.wait(list(refs), num_returns=len(refs), timeout=0)[0]:
                yield from self._ended(refs[ref])
        self._kill_hung()
        self._warn_if_scarce()

    def _ended(self, slot: Slot) -> Iterator[tuple[Call | Measurement, Any, float]]:
        """What the worker was asked is answered, or the worker is gone."""
        result = outcome(slot)
        flight, slot.flight, slot.ref = slot.flight, None, None
        starting = flight is None or isinstance(flight.call, Measurement)
        if isinstance(result, WorkerInfo):
            slot.info = result
        elif isinstance(result, LostCall) and result.device_failed:
            if starting:
                self._start_failed(result.detail)
            self._replace_device(slot)
        elif isinstance(result, LostCall) and result.reason != "internal_error":
            if starting and not result.preempted:
                self._start_failed(result.detail)
            self._revive(slot, died=result.died)
        elif isinstance(result, GivenBack):
            slot.leaving = True
        elif flight is not None and flight.killed:  # it answered in the moment when it was killed
            self._revive(slot, died=True)
        if flight is not None:
            if not isinstance(result, LostCall):
                self._failed_starts = slot.device_failures = 0
            yield flight.call, result, time.monotonic() - flight.started

    def _start_failed(self, detail: str) -> None:
        self._failed_starts += 1
        self._last_failure = detail

    def _revive(self, slot: Slot, *, died: bool) -> None:
        """Starts another worker, or waits for this one where Ray has only lost sight of it."""
        slot.info = None
        if died:
            slot.actor, slot.needs = self._actor_class.remote(self._config), self._needs
            slot.ref = slot.actor.ready.remote()
        else:
            slot.ask_at = time.monotonic() + _BLINK_SECONDS

    def _ask_again(self) -> None:
        """Asks workers that could not be reached whether they are there."""
        for slot in self._slots:
            if slot.ask_at is not None and time.monotonic() >= slot.ask_at:
                slot.ask_at, slot.ref = None, slot.actor.ready.remote()

    def _replace_device(self, slot: Slot) -> None:
        """Starts another process on the device, in a context of its own, or gives the device up.

        A worker that is given up stays as it is: so Ray lends its GPU to no other.
        """
        slot.device_failures += 1
        others = (other for other in self._slots if other is not slot and other.info is not None)
        if slot.device_failures >= _DEVICE_FAILURES and not all(other.device_failures for other in others):
            log.warning(
                "the device of a worker (%s) failed %d times in a row and gets no more work; test it by "
                "`ncbatch selftest`",
                slot.place,
                slot.device_failures,
            )
            slot.retired, slot.info = True, None
            return
        ray.kill(slot.actor, no_restart=True)
        self._revive(slot, died=True)

    def _kill_hung(self) -> None:
        """Kills workers that have shown no sign of life for too long, by the board's clock.

        While the board itself cannot be read, nobody is killed.
        """
        flights = {slot.flight.attempt: slot for slot in self._slots if slot.flight is not None}
        to_give_back = [attempt for attempt, slot in flights.items() if slot.leaving]
        self._heard = self._board.read(flights, to_give_back) if self._board is not None else {}
        for attempt, heard in self._heard.items():
            slot, flight = flights[attempt], flights[attempt].flight
            if flight is None or flight.killed or heard.silent <= flight.patience:
                continue
            if ray.wait([slot.ref], timeout=0)[0]:
                continue  # it has ended while others were collected
            log.warning(
                "a worker (%s) has shown no sign of life for %.0f s and is killed", slot.place, heard.silent
            )
            flight.killed = True
            ray.kill(slot.actor)

    def _warn_if_scarce(self) -> None:
        now = time.monotonic()
        if self.ready_workers:
            self._none_since = now
        if self._warned or now - self._none_since < _SCARCE_SECONDS:
            return
        self._warned = True
        there = self._view
        log.warning(
            "no worker could start for a minute: each needs CPUs: %g, GPUs: %g, and the cluster has in all "
            "CPUs: %g, GPUs: %g; add nodes or ask for less with --cpus-per-worker and --gpus-per-worker",
            self._needs["CPU"],
            self._needs["GPU"],
            there.total("CPU"),
            there.total("GPU"),
        )
