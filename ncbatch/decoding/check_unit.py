"""Doing a unit of a check: its images are decoded, and what was found is committed."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

from ncbatch import layout
from ncbatch.decoding.check_plan import CHECK_SCHEMA, rows_of
from ncbatch.decoding.destination import Destination
from ncbatch.decoding.findings import Finding
from ncbatch.decoding.run_reader import RunReader
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
            # Ends its threads, whatever happens.
            with closing(self._findings(rows, poisoned, done)) as findings:
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
        """Decodes one image of a unit, and neither writes nor commits anything."""
        rows = [row for row in rows_of(unit, self._files) if row["image_key"] == image_key]
        for _ in self._reader(rows).verify():
            pass

    def _reader(self, rows: Iterable[dict[str, Any]]) -> RunReader:
        sound = [{**row, "status": "ok"} for row in rows]
        return RunReader(self._task.output, rows=sound, models=self._models)

    def _findings(
        self, rows: list[dict[str, Any]], poisoned: Mapping[str, Failure], done: Callable[[str], None]
    ) -> Generator[Finding, None, None]:
        into = self._task.destination
        reader = self._reader(row for row in rows if row["image_key"] not in poisoned)
        if into is None:
            yield from reader.verify()
        else:
            if into.tar_bytes is not None:
                # A tar's name tells its unit, so what stands there is an earlier attempt's at the same unit,
                # which may have had other images beside it.
                into = replace(into, overwrite=True)
            yield from reader.decode_as(into, lambda row: str(row["name"]), _named_by(rows), done)
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


def _named_by(rows: Iterable[dict[str, Any]]) -> str:
    """A name for what is decoded from some rows."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(f"{row['image_key']}\n{row['variant']}\n{row['sha256']}\n".encode())
    return digest.hexdigest()[:16]
