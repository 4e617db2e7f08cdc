"""Doing a unit of a check: its images are decoded, and what was found is committed."""

from __future__ import annotations

import platform
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

from ncbatch import layout
from ncbatch.decoding.check_plan import CHECK_SCHEMA, rows_of
from ncbatch.decoding.destination import Destination
from ncbatch.decoding.run_reader import Finding, RunReader
from ncbatch.metrics.failures import Failure
from ncbatch.metrics.findings import FindingRow, counted, findings_to_parquet, parquet_to_findings
from ncbatch.metrics.unit_result import CommittedUnit
from ncbatch.models.loading import RunModels
from ncbatch.plan.plan_files import PlanFiles
from ncbatch.plan.units import Unit
from ncbatch.store import Store


@dataclass(frozen=True)
class CheckTask:
    """What is done with the units of a check.

    Attributes:
        name: of the check.
        output: the folder of the run whose rows are checked.
        work: the folder of the check.
        destination: where decoded images go; None: they are only checked.
    """

    name: str
    output: Store
    work: Store
    destination: Destination | None = None


class UnitChecker:
    """Does units of one check, one after the other.

    Args:
        task: what is done.
        models: of the run.
    """

    def __init__(self, task: CheckTask, models: RunModels) -> None:
        self._task, self._models = task, models
        self._files = PlanFiles(task.work, CHECK_SCHEMA)

    def run_unit(
        self, unit: Unit, attempt: str, poisoned: Mapping[str, Failure], done: Callable[[str], None]
    ) -> CommittedUnit:
        """Checks a unit's images and commits what is found, unless a commit stands already.

        Args:
            unit: of the check.
            attempt: the name of this execution.
            poisoned: images with which workers are lost, by key, and what happens; they are not touched.
            done: is told of every image that is checked, by its key.

        Raises:
            StoreError: the store refused or could not be reached; do the unit again later.
        """
        key, work = layout.unit_key(unit.id), self._task.work
        if work.head(key) is None:
            rows = rows_of(unit, self._files)
            about = {row["image_key"]: row for row in rows}
            found = []
            with closing(self._findings(rows, poisoned)) as findings:  # ends its threads, whatever happens
                for finding in findings:
                    found.append(self._row(about[finding.image_key], finding, attempt))
                    done(finding.image_key)
            if len(found) != len(rows):
                raise AssertionError(f"unit {unit.id} has {len(rows)} images, but {len(found)} findings")
            data = findings_to_parquet(found)
            if work.put_if_absent(key, data):
                return counted(parquet_to_findings(data, key))
        return replace(counted(parquet_to_findings(work.get(key), key)), found=True)

    def probe(self, unit: Unit, image_key: str) -> None:
        """Does one image of a unit, and commits nothing."""
        rows = [row for row in rows_of(unit, self._files) if row["image_key"] == image_key]
        for _ in self._findings(rows, {}):
            pass

    def _findings(
        self, rows: list[dict[str, Any]], poisoned: Mapping[str, Failure]
    ) -> Generator[Finding, None, None]:
        task = self._task
        sound = [{**row, "status": "ok"} for row in rows if row["image_key"] not in poisoned]
        reader = RunReader(task.output, rows=sound, models=self._models)
        if task.destination is None:
            yield from reader.verify()
        else:
            yield from reader.decode_as(task.destination, lambda row: str(row["name"]))
        for row in rows:
            if (failure := poisoned.get(row["image_key"])) is not None:
                yield Finding(row["image_key"], row["variant"], problem=failure.error)

    def _row(self, row: dict[str, Any], finding: Finding, attempt: str) -> FindingRow:
        return FindingRow(
            check_name=self._task.name,
            image_key=row["image_key"],
            variant=row["variant"],
            generation=row["generation"],
            bitstream_key=row["bitstream_key"],
            problem=finding.problem,
            damaged=finding.damaged is not None,
            written=finding.written,
            host=platform.node(),
            attempt=attempt,
            checked_at=datetime.now(timezone.utc),
        )
