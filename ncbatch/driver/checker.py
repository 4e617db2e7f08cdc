"""The worker of a verification or a decoding: as the one that encodes, but for what it does with a unit."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from typing_extensions import override

from ncbatch.decoding.check_unit import CheckTask, UnitChecker
from ncbatch.metrics.failures import Failure
from ncbatch.metrics.unit_result import CommittedUnit
from ncbatch.plan.units import Unit
from ncbatch.store.waiting import told_of_waiting
from ncbatch.worker.worker import Worker, WorkerConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CheckerConfig(WorkerConfig):
    """What such a worker needs to know. task: what it does."""

    task: CheckTask | None = None

    @property
    @override
    def run_label(self) -> str:
        """The check's own folder: what it counts is no encoding of the run."""
        return self.output.uri if self.task is None else self.task.work.uri


class Checker(Worker):
    """Does units of a check."""

    def __init__(self, config: CheckerConfig) -> None:
        super().__init__(config)
        assert config.task is not None
        self._task = config.task
        self._checker = UnitChecker(config.task, self._workspace.models)

    @override
    def _try(self, variant_name: str) -> None:
        super()._try(variant_name)
        self._task.work.check()
        if self._task.destination is not None:
            self._task.destination.store.check()

    @override
    def _do(self, unit: Unit, attempt: str, poisoned: Mapping[str, Failure]) -> CommittedUnit:
        progress = self._workspace.progress(unit, attempt)

        def done(image_key: str) -> None:
            progress.done(image_key)
            progress.go_on()

        with told_of_waiting(progress.alive):
            result = self._checker.run_unit(unit, attempt, poisoned, done)
        log.info("checked %d images, %d with a problem", result.ok + result.failed, result.failed)
        return result

    @override
    def _do_one(self, unit: Unit, attempt: str, image_key: str) -> None:
        self._checker.probe(unit, image_key)
