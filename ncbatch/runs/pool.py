"""The workers of a run as Ray actors: started, called, killed, and their ends told apart.

The only room that knows how Ray reports a death. `max_restarts=-1, max_task_retries=0`: restarting processes
is Ray's job, deciding what is done again is ours.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayError, RayTaskError

from ncbatch.runs.pending import Call
from ncbatch.runs.plan import Unit
from ncbatch.runs.worker import StoreFailure, Worker, WorkerConfig, WorkerInfo

log = logging.getLogger(__name__)

_SCARCE_SECONDS = 60.0


@dataclass(frozen=True)
class PoolConfig:
    """Size of the pool and of its workers.

    workers: how many; None: as many as the cluster has room for, growing with it.
    cpus, gpus: of one worker; gpus None: one where the cluster has any.
    """

    workers: int | None = None
    cpus: float = 1.0
    gpus: float | None = None


@dataclass(frozen=True)
class Lost:
    """A call whose worker is gone.

    reason: an error class; preempted: the node was taken away, which is nobody's fault.
    """

    reason: str
    detail: str
    preempted: bool = False


@dataclass
class _Slot:
    """One worker: starting, idle, or with one call in flight."""

    actor: Any
    ref: Any = None
    call: Call | None = None
    deadline: float = float("inf")
    started: float = field(default_factory=time.monotonic)
    info: WorkerInfo | None = None
    hung: bool = False

    @property
    def idle(self) -> bool:
        return self.ref is None and self.info is not None


class Pool:
    """Workers, one call in flight each.

    Args:
        config: what every worker is told.
    """

    def __init__(self, config: WorkerConfig, size: PoolConfig) -> None:
        if size.gpus is None:
            size = replace(size, gpus=1.0 if ray.cluster_resources().get("GPU") else 0.0)
        self._config, self._size = config, size
        options: dict[str, Any] = {
            "num_cpus": size.cpus,
            "num_gpus": size.gpus,
            "max_restarts": -1,
            "max_task_retries": 0,
            # Ray would set OMP_NUM_THREADS to num_cpus, which torch takes for its pool at import.
            "runtime_env": {"env_vars": {"OMP_NUM_THREADS": str(config.threads)}},
        }
        self._actor_class = ray.remote(Worker).options(**options)
        self._slots: list[_Slot] = []
        self._created = time.monotonic()
        self._warned = False

    def grow(self, wanted: int) -> None:
        """Starts workers up to `wanted`, or up to what the cluster has room for, if that is less."""
        for _ in range(min(wanted, self.room) - len(self._slots)):
            slot = _Slot(self._actor_class.remote(self._config))
            slot.ref = slot.actor.ready.remote()
            self._slots.append(slot)

    @property
    def room(self) -> int:
        """How many workers there may be at present."""
        if self._size.workers is not None:
            return self._size.workers
        resources = ray.cluster_resources()
        fits = [int(resources.get("CPU", 0) // self._size.cpus)] if self._size.cpus else []
        fits += [int(resources.get("GPU", 0) // self._size.gpus)] if self._size.gpus else []
        return max(min(fits, default=1), 1)

    @property
    def ready_workers(self) -> int:
        return sum(slot.info is not None for slot in self._slots)

    @property
    def calling(self) -> bool:
        return any(slot.call is not None for slot in self._slots)

    @property
    def has_idle(self) -> bool:
        return any(slot.idle for slot in self._slots)

    def call(self, call: Call, unit: Unit, attempt: str, seconds: float) -> None:
        """Gives an idle worker something to do; after `seconds` it counts as hung and is killed."""
        slot = next(slot for slot in self._slots if slot.idle)
        if call.image is None:
            slot.ref = slot.actor.run_unit.remote(unit, attempt, call.poisoned)
        else:
            slot.ref = slot.actor.probe.remote(unit, attempt, call.image)
        slot.call, slot.started, slot.deadline = call, time.monotonic(), time.monotonic() + seconds

    def calibrate(self, variant: str) -> float:
        """Seconds per pixel of a variant, measured by the first worker that is there.

        Raises:
            RayError: the worker died over it.
            RuntimeError: the store failed.
        """
        while not self.has_idle:
            for _ in self.events(timeout=1.0):
                raise AssertionError("no call is in flight yet")
        slot = next(slot for slot in self._slots if slot.idle)
        measured = ray.get(slot.actor.calibrate.remote(variant))
        if isinstance(measured, StoreFailure):
            raise RuntimeError(measured.message)
        return float(measured)

    def events(self, timeout: float) -> Iterator[tuple[Call, Any, float]]:
        """Waits up to `timeout` seconds and yields the calls that ended: (call, result or Lost, seconds)."""
        self._kill_hung()
        refs = {slot.ref: slot for slot in self._slots if slot.ref is not None}
        if not refs:
            time.sleep(timeout)
            return
        for ref in ray.wait(list(refs), num_returns=1, timeout=timeout)[0]:
            slot = refs[ref]
            result = self._result(slot, ref)
            call, slot.call, slot.ref, slot.deadline = slot.call, None, None, float("inf")
            if isinstance(result, WorkerInfo):
                slot.info = result
            elif isinstance(result, Lost) and result.reason != "internal_error":
                self._revive(slot, died=result.detail == ActorDiedError.__name__, quietly=call is None)
            if call is not None:
                yield call, result, time.monotonic() - slot.started
        self._warn_if_scarce()

    def _result(self, slot: _Slot, ref: Any) -> Any:
        try:
            return ray.get(ref)
        except RayTaskError as error:  # the worker lives; its code raised
            log.error("a worker raised:\n%s", error)
            return Lost("internal_error", str(error.cause))
        except RayError as error:
            reason = "deadline" if slot.hung else "process_killed"
            preempted = isinstance(error, ActorDiedError) and bool(getattr(error, "preempted", False))
            where = f" (process {slot.info.pid} on {slot.info.host})" if slot.info else ""
            log.warning("lost a worker%s: %s", where, str(error).strip().splitlines()[0])
            slot.hung = False
            return Lost(reason, type(error).__name__, preempted)

    def _revive(self, slot: _Slot, *, died: bool, quietly: bool) -> None:
        """Waits for Ray to restart the worker, or starts another where Ray has given up on it."""
        if died:
            slot.actor = self._actor_class.remote(self._config)
        elif quietly:
            time.sleep(0.5)  # it died while starting; do not spin
        slot.info = None
        slot.ref = slot.actor.ready.remote()

    def _kill_hung(self) -> None:
        for slot in self._slots:
            if slot.call is not None and time.monotonic() > slot.deadline and not slot.hung:
                log.warning("a call hangs since %.0f s: killing its worker", time.monotonic() - slot.started)
                slot.hung = True
                ray.kill(slot.actor, no_restart=False)

    def _warn_if_scarce(self) -> None:
        if self._warned or self.ready_workers or time.monotonic() - self._created < _SCARCE_SECONDS:
            return
        self._warned = True
        log.warning(
            "no worker could start for a minute: each needs %g CPUs and %g GPUs, the cluster has %s in all; "
            "add nodes or ask for less with --cpus-per-worker and --gpus-per-worker",
            self._size.cpus,
            self._size.gpus,
            {k: v for k, v in ray.cluster_resources().items() if k in ("CPU", "GPU")},
        )

    def kill(self) -> None:
        """Ends all workers at once."""
        for slot in self._slots:
            ray.kill(slot.actor, no_restart=True)
        self._slots.clear()


def start_ray(address: str | None, size: PoolConfig) -> None:
    """Connects to a cluster, or starts a local Ray on loopback when no address is known.

    Args:
        address: of a cluster; without one, RAY_ADDRESS, which Ray sets for jobs.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    if address:
        ray.init(address=address, log_to_driver=False)
        return
    cores = os.cpu_count() or 1
    cpus = max(cores, int((size.workers or 0) * size.cpus + 0.999))
    ray.init(
        address="local",
        num_cpus=cpus,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.WARNING,
    )
