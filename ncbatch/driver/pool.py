"""The workers of a run as Ray actors: started, called, killed and replaced. Nothing here waits for Ray's GCS.

`max_restarts=0, max_task_retries=0`: a dead actor is replaced here. Ray would restart one that dies in its
constructor for ever and in silence, and it tells of a preempted node only for actors it does not restart.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import replace
from types import TracebackType
from typing import Any

import ray

from ncbatch.driver.board import BoardReader
from ncbatch.driver.cluster import start_ray
from ncbatch.driver.cluster_view import ClusterView, ClusterWatch, orphaned_reason, raylet_has_died, this_node
from ncbatch.driver.elastic import Aim, Elastic, Needs, warn_of_scarcity
from ncbatch.driver.health import Place
from ncbatch.driver.lost_calls import LostCall, failure_by, outcome
from ncbatch.driver.options import PoolConfig
from ncbatch.driver.ray_metrics import RayExporter
from ncbatch.driver.schedule import Call, CallKind
from ncbatch.driver.shared_models import share_models
from ncbatch.driver.slots import Ended, Flight, Measurement, Slot
from ncbatch.plan.units import Unit
from ncbatch.telemetry import recorder
from ncbatch.worker.beats import Beat, Heard
from ncbatch.worker.worker import GivenBack, Worker, WorkerConfig, WorkerInfo

log = logging.getLogger(__name__)

_SCARCE_SECONDS = 60.0
_FAILED_STARTS = 3
"""Workers lost in a row before they did anything, besides one per worker, that stop the run."""
_LONGEST_PAUSE = 60.0
"""Seconds between two attempts to start a worker, of which the pauses double."""
_REMEMBERED_SECONDS = 120.0
"""For which a worker that starts counts as being where its predecessor was."""
_CALIBRATION_SECONDS = 1800.0  # only a hang takes longer
_BLINK_SECONDS = 0.5  # before a worker that could not be reached is tried again
_LOGS = "look at the workers' logs, worker-*.err in the logs/ folder of Ray's session"


class Pool:
    """Workers, one call in flight each.

    Costs nothing until `start`: a run with nothing left to do needs no Ray.

    Args:
        config: what every worker is told.
        address: of the cluster, see `start_ray`.
        worker: what they are.
    """

    def __init__(
        self,
        config: WorkerConfig,
        size: PoolConfig,
        address: str | None = None,
        worker: type[Worker] = Worker,
    ) -> None:
        self._config, self._address, self._worker = config, address, worker
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
        self._watch = ClusterWatch(own=this_node(), dead=raylet_has_died)
        self._board = BoardReader()
        source = share_models(self._config.output, self._config.spec.models)
        metrics = RayExporter(self._config.run_label)
        recorder.start(metrics)
        told: dict[str, Any] = {"report": self._board.pen, "source": source, "node": this_node}
        self._config = replace(self._config, metrics=metrics, **told)
        self._recruit(self._elastic.needs(self._view))
        self._none_since = time.monotonic()

    def _recruit(self, needs: Needs) -> None:
        """From now on starts workers that need this."""
        self._needs = needs
        self._actor_class = ray.remote(self._worker).options(
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
            recorder.stop()
        ray.shutdown()

    @property
    def is_orphaned(self) -> bool:
        """Whether Ray has died on this machine, so that no call will ever be answered."""
        return self._watch is not None and self._watch.is_orphaned

    @property
    def stop_reason(self) -> str | None:
        """Why it is no use to go on, or None: Ray itself has died here, or no worker is there, and all of
        them die while they start.
        """
        if self.is_orphaned:
            return orphaned_reason()
        if self._failed_starts < _FAILED_STARTS + self.size or self.ready_workers:
            return None
        return f"{self._failed_starts} workers died while starting (last: {self._last_failure}); {_LOGS}"

    def grow(self, wanted: int, unfit: Collection[tuple[str, str]] = ()) -> None:
        """Starts workers up to `wanted`, or up to what the cluster has room for or may grow to.

        Gives back those that are too many, or that stand where others should: on a node that is about to be
        taken away, or on CPUs where GPUs have joined. A worker that is busy ends its call first.

        Args:
            unfit: places that get no work, whose workers do not count and are the first to go.
        """
        if not wanted:
            return
        wanted += sum(slot.place is not None and slot.place.key in unfit for slot in self._slots)
        self.start()
        aim = self._elastic.aim(self._view, wanted, self._needs)
        if aim.needs != self._needs:
            log.info("GPUs have joined the cluster: workers use them from now on")
            self._recruit(aim.needs)
        self._give_back(aim, unfit)
        for _ in range(aim.workers - self._counted):
            slot = Slot(self._actor_class.remote(self._config), self._needs)
            slot.ref = slot.actor.ready.remote()
            self._slots.append(slot)

    def _give_back(self, aim: Aim, unfit: Collection[tuple[str, str]]) -> None:
        for slot in self._slots:
            if not slot.leaving and self._is_out_of_place(slot):
                log.info("a worker (%s) gives back what it is at, for another node to do", slot.name)
                slot.leaving = True
        surplus = self._counted - aim.workers
        workers_on = Counter(slot.place.node for slot in self._slots if slot.place is not None)

        def worth(slot: Slot) -> tuple[int, int]:
            """Those without room are worth the least, and the only one of its node is worth the most."""
            if slot.info is None or slot.place is None:
                return 0, 0
            return (1 if slot.place.key in unfit else 2), -workers_on[slot.place.node]

        for slot in sorted(self._slots, key=worth):
            if slot.flight is not None or slot.doubtful is not None:
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
        return any(slot.flight is not None or slot.doubtful is not None for slot in self._slots)

    def idle(self) -> list[Slot]:
        """The workers that wait for a call."""
        return [slot for slot in self._slots if slot.idle]

    def places(self) -> list[Place]:
        """Where the workers are, those included that are being replaced there."""
        return [slot.place for slot in self._slots if slot.place is not None]

    def call(self, slot: Slot, call: Call, unit: Unit, attempt: str, patience: float) -> None:
        """Gives an idle worker something to do.

        Args:
            attempt: the name of this execution.
            patience: seconds without a sign of life, after which the worker counts as hung and is killed.
        """
        if call.kind is CallKind.TRIAL:
            slot.ref = slot.actor.trial.remote(unit.variant)
        elif call.image is None:
            poisoned = {image: failure_by(blame) for image, blame in call.poisoned.items()}
            slot.ref = slot.actor.run_unit.remote(unit, attempt, poisoned)
        else:
            slot.ref = slot.actor.probe.remote(unit, attempt, call.image)
        slot.flight, slot.last = Flight(call, attempt, patience, time.monotonic()), call.unit

    def flights(self) -> list[tuple[Flight, Place, Beat | None]]:
        """What is being done, where, and the last beat of it; None: none has arrived. Never waits."""
        return [
            (flight, slot.place, heard.beat if (heard := self._heard.get(flight.attempt)) else None)
            for slot in self._slots
            if (flight := slot.flight) is not None and slot.place is not None
        ]

    def in_flight(self) -> dict[str, Beat | None]:
        """The units being done, and the last beat of each; None: none has arrived. Never waits."""
        return {
            flight.call.unit: beat
            for flight, _, beat in self.flights()
            if isinstance(flight.call, Call) and flight.call.kind is CallKind.UNIT
        }

    def measure(self, slot: Slot, call: Measurement) -> None:
        """Lets an idle worker measure how long a variant takes, which gives no sign of life meanwhile."""
        slot.ref = slot.actor.calibrate.remote(call.variant)
        slot.flight = Flight(call, f"calibration of {call.variant}", _CALIBRATION_SECONDS, time.monotonic())

    def events(self, timeout: float) -> Iterator[Ended]:
        """Waits up to `timeout` seconds and yields calls that ended.

        Whatever has ended is collected before a worker is killed as hung.
        """
        self._keep_up()
        refs = {slot.ref: slot for slot in self._slots if slot.ref is not None}
        if not refs:
            time.sleep(timeout)
        elif ray.wait(list(refs), num_returns=1, timeout=timeout)[0]:
            for ref in ray.wait(list(refs), num_returns=len(refs), timeout=0)[0]:
                yield from self._ended(refs[ref])
        self._kill_hung()
        self._warn_if_scarce()

    def _ended(self, slot: Slot) -> Iterator[Ended]:
        """What the worker was asked is answered, or the worker is gone."""
        result = outcome(slot)
        flight, slot.flight, slot.ref = slot.flight, None, None
        if isinstance(result, LostCall) and result.unreachable:
            # Whether its process, its node or only the connection is gone, the next answer tells.
            slot.info, slot.doubtful = None, flight or slot.doubtful
            slot.ask_at = time.monotonic() + _BLINK_SECONDS
            return
        if flight is None:
            flight, slot.doubtful = slot.doubtful, None
        place = slot.place
        if isinstance(result, WorkerInfo):
            slot.started(result)
            result = LostCall("process_killed", "a call was lost on its way", blameless=True)
        elif isinstance(result, LostCall):
            self._replace(slot, result, had_started=flight is not None)
        elif isinstance(result, GivenBack):
            slot.leaving = True
        elif flight is not None and flight.killed:  # it answered in the moment when it was killed
            self._replace(slot, LostCall("deadline", "", died=True), had_started=True)
        if flight is not None and place is not None:
            if not isinstance(result, LostCall):
                self._failed_starts = 0
            yield Ended(flight.call, result, time.monotonic() - flight.started, place)

    def _replace(self, slot: Slot, lost: LostCall, *, had_started: bool) -> None:
        """Sees to it that another process takes a worker's place, in a context of its own."""
        if not lost.died:
            ray.kill(slot.actor, no_restart=True)
        slot.info, slot.remembered_from = None, time.monotonic()
        if lost.blameless:
            slot.place = None
        pause = 0.0
        if not had_started and not lost.blameless:
            self._failed_starts += 1
            self._last_failure = lost.detail
            pause = min(2.0 ** (slot.failed_starts - 1), _LONGEST_PAUSE) if slot.failed_starts else 0.0
            slot.failed_starts += 1
        slot.start_at = time.monotonic() + pause
        self._keep_up()

    def _keep_up(self) -> None:
        """Starts workers whose time has come, and asks those that could not be reached."""
        now = time.monotonic()
        for slot in self._slots:
            if slot.ask_at is not None and now >= slot.ask_at:
                slot.ask_at, slot.ref = None, slot.actor.ready.remote()
            elif slot.start_at is not None and now >= slot.start_at:
                slot.start_at, slot.needs = None, self._needs
                slot.actor = self._actor_class.remote(self._config)
                slot.ref = slot.actor.ready.remote()
            starting = slot.info is None and slot.doubtful is None
            if starting and now > slot.remembered_from + _REMEMBERED_SECONDS:
                slot.place = None

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
                "a worker (%s) has shown no sign of life for %.0f s and is killed", slot.name, heard.silent
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
        warn_of_scarcity(self._needs, self._view)
