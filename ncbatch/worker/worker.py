"""The worker: a process that does units. The driver makes a Ray actor of it; nothing here knows of Ray."""

from __future__ import annotations

import logging
import os
import platform
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch

from ncbatch import signals
from ncbatch.codec.allocator import keep_freed_memory
from ncbatch.codec.errors import InexactDeviceError
from ncbatch.errors import first_line
from ncbatch.logs import AboutLines, JsonLines, LogFormat, about
from ncbatch.metrics.failures import Failure
from ncbatch.metrics.unit_result import CommittedUnit
from ncbatch.models.loading import ModelSource
from ncbatch.plan.spec import RunSpec
from ncbatch.plan.units import Unit
from ncbatch.store import DestinationRefused, Store, StoreError, StoreFull
from ncbatch.telemetry import instruments, recorder
from ncbatch.worker.beats import BeatSink, GiveBack
from ncbatch.worker.calibration import seconds_per_pixel, try_out
from ncbatch.worker.device_health import fault, own_device
from ncbatch.worker.options import WorkerOptions
from ncbatch.worker.unit import probe_image, run_unit
from ncbatch.worker.workspace import Workspace

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkerConfig:
    """What a worker needs to know; travels to it.

    threads: of torch. report, source: see `Workspace`. node: tells where it is called.
    log_format: of the lines that it logs. metrics: where its metrics go.
    """

    spec: RunSpec
    corpus: Store
    output: Store
    options: WorkerOptions
    threads: int = 1
    report: BeatSink | None = None
    log_format: LogFormat = "text"
    source: ModelSource | None = None
    node: Callable[[], str] = str
    metrics: recorder.Exporter | None = None

    @property
    def run_label(self) -> str:
        """The value of the label `run` of its metrics."""
        return self.output.uri


@dataclass(frozen=True)
class WorkerInfo:
    """Where a worker runs, and on which device. node: the cluster's name for where it runs, if it has one."""

    host: str
    pid: int
    device: str
    node: str = ""


@dataclass(frozen=True)
class StoreFailure:
    """The store refused a call or could not be reached. A value and no exception, since the worker itself is
    fine.

    full: whether there is no room for what is to be written, which is so wherever it is written from.
    final: whether another try from here would be refused as well.
    """

    message: str
    full: bool = False
    final: bool = False


@dataclass(frozen=True)
class DeviceFailure:
    """The worker's device does not compute, or not exactly. A value, since the worker knows that it is not
    the image's fault; it has to be replaced.
    """

    message: str


@dataclass(frozen=True)
class GivenBack:
    """The worker is to end soon, and gives its unit back: others go on from the state that it has saved."""


Trouble = StoreFailure | DeviceFailure | GivenBack
"""What a call may come back with in place of its result, through no fault of the images."""

_Result = TypeVar("_Result")


class Worker:
    """Does what it is told, one call at a time.

    Raises:
        RuntimeError: its device does not compute.
    """

    def __init__(self, config: WorkerConfig) -> None:
        handler = logging.StreamHandler()
        text = AboutLines("%(asctime)s %(name)s: %(message)s")
        handler.setFormatter(JsonLines() if config.log_format == "json" else text)
        logging.basicConfig(level=logging.INFO, handlers=[handler])
        self._run = config.output.uri
        torch.set_num_threads(config.threads)
        keep_freed_memory()
        device = own_device()
        problem = fault(device)
        if problem is not None:
            raise RuntimeError(f"the device {device} does not compute: {problem}")
        self._node = config.node()
        if config.metrics is not None:
            recorder.start(config.metrics)
            instruments.WORKER_SECONDS.begin()
        self._workspace = Workspace(
            config.spec, config.corpus, config.output, device, config.options, config.report, config.source
        )
        # Who takes a machine away says so some time before, by this signal or through the cluster.
        signals.at_first(signal.SIGTERM, self._workspace.leaving.set)

    def ready(self) -> WorkerInfo:
        """Answers once the worker has started."""
        device = str(self._workspace.device)
        # Each worker sees its own GPU as the first; the cluster says in this variable which one it is.
        if device == "cuda" and (number := os.environ.get("CUDA_VISIBLE_DEVICES")):
            device = f"cuda:{number}"
        return WorkerInfo(platform.node(), os.getpid(), device, self._node)

    def calibrate(self, variant_name: str) -> float | Trouble:
        """Seconds that encoding takes per pixel under a variant on this hardware, from a few steps."""
        return self._reported(lambda: self._calibrate(variant_name))

    def _calibrate(self, variant_name: str) -> float:
        variant = self._workspace.spec.variant(variant_name)
        workspace = self._workspace
        return seconds_per_pixel(workspace.coder(variant), workspace.batching(variant), workspace.bounds)

    def trial(self, variant_name: str) -> Trouble | None:
        """Shows that units of a variant could be done here: stores, model and device do what they should."""
        return self._reported(lambda: self._try(variant_name))

    def _try(self, variant_name: str) -> None:
        for store in (self._workspace.corpus, self._workspace.output):
            store.check()
        try_out(self._workspace.coder(self._workspace.spec.variant(variant_name)))

    def run_unit(self, unit: Unit, attempt: str, poisoned: Mapping[str, Failure]) -> CommittedUnit | Trouble:
        """Does a unit and commits it, without the poisoned images; returns what the commit holds."""
        with about(run=self._run, unit=unit.id, attempt=attempt):
            return self._reported(lambda: self._do(unit, attempt, poisoned))

    def probe(self, unit: Unit, attempt: str, image_key: str) -> Trouble | None:
        """Does one image of a unit and commits nothing."""
        with about(run=self._run, unit=unit.id, attempt=attempt):
            return self._reported(lambda: self._do_one(unit, attempt, image_key))

    def _do(self, unit: Unit, attempt: str, poisoned: Mapping[str, Failure]) -> CommittedUnit:
        return run_unit(self._workspace, unit, attempt, poisoned)

    def _do_one(self, unit: Unit, attempt: str, image_key: str) -> None:
        probe_image(self._workspace, unit, attempt, image_key)

    def _reported(self, action: Callable[[], _Result]) -> _Result | Trouble:
        if self._workspace.leaving.is_set():
            return GivenBack()
        try:
            return action()
        except GiveBack:
            return GivenBack()
        except StoreError as error:
            full, final = isinstance(error, StoreFull), isinstance(error, DestinationRefused)
            return StoreFailure(str(error), full=full, final=final)
        except InexactDeviceError as error:
            return DeviceFailure(str(error))
        except Exception as error:
            problem = fault(self._workspace.device)
            if problem is None:
                raise
            log.exception("the device %s does not compute any more", self._workspace.device)
            return DeviceFailure(f"{self._workspace.device}: {first_line(error)}; then: {problem}")
