"""Doing a unit: fetch, encode, verify, publish, commit.

Everything is written before the commit and nothing refers to it until then; the commit is one create-only
put. So a unit may be done any number of times, by any number of workers at once.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace

from ncbatch import layout
from ncbatch.codec.codecs import PackCoder
from ncbatch.metrics.failures import Failure
from ncbatch.metrics.schema import Row, parquet_to_table, rows_to_parquet
from ncbatch.metrics.summary import unit_result
from ncbatch.metrics.unit_result import CommittedUnit
from ncbatch.plan.units import Unit
from ncbatch.store.waiting import told_of_waiting
from ncbatch.telemetry import instruments
from ncbatch.worker.attempt import Attempt
from ncbatch.worker.pack_attempt import PackAttempt
from ncbatch.worker.workspace import Workspace

log = logging.getLogger(__name__)


def run_unit(
    workspace: Workspace, unit: Unit, attempt: str, poisoned: Mapping[str, Failure]
) -> CommittedUnit:
    """Does a unit and commits it, unless a commit stands already.

    Args:
        attempt: names everything written before the commit.
        poisoned: images that get a failed row without being touched, by key, and why.

    Raises:
        StoreError: the store refused or could not be reached; do the unit again later.
    """
    key, output = layout.unit_key(unit.id), workspace.output
    rows: list[Row] | None = None
    wip = workspace.wip(unit)
    if output.head(key) is None:
        work = open_attempt(workspace, unit, attempt)
        wip = work.wip
        rows = list[Row]()
        with told_of_waiting(work.progress.alive), _commits_prepared():
            with closing(work.rows(unit.images, poisoned)) as done:  # ends its threads, whatever happens here
                for row in done:
                    rows.append(row)
                    work.progress.done(row.image_key)
            _check_complete(unit, rows)
            work.complete(rows)
            work.tracer.write()
            if not output.put_if_absent(key, rows_to_parquet(rows)):
                rows = None
    wip.discard()
    if rows is not None:
        _count(rows)
        return _told(unit_result(rows), rows)
    log.info("unit %s is committed already", unit.id)
    keys = {image.key for image in unit.images}  # it may hold more, which has been planned again since
    standing = (Row(**row) for row in parquet_to_table(output.get(key)).to_pylist())
    return replace(unit_result(row for row in standing if row.image_key in keys), found=True)


@contextmanager
def _commits_prepared() -> Iterator[None]:
    """Makes a table of rows beside the first images: for a process's first one, pyarrow imports pandas, and a
    device would wait a third of a second for that at the end of the unit.
    """
    preparing = threading.Thread(target=rows_to_parquet, args=([],), name="prepare-commits")
    preparing.start()
    try:
        yield
    finally:
        preparing.join()


def _told(result: CommittedUnit, rows: Sequence[Row]) -> CommittedUnit:
    """Says in the worker's log what was committed; a failed row names the attempt whose lines these are."""
    for row in rows:
        if row.status == "failed":
            log.warning("%s failed: %s: %s", row.image_key, row.error_class, row.error)
    log.info("committed %d images ok, %d failed", result.ok, result.failed)
    return result


def _count(rows: Sequence[Row]) -> None:
    """What Prometheus is told of rows that this process has committed."""
    for row in rows:
        if row.status != "ok":
            continue
        variant = row.variant
        instruments.PIXELS.add((row.width or 0) * (row.height or 0), variant=variant)
        measured = (
            (instruments.BPP, row.bpp),
            (instruments.PSNR, row.psnr),
            (instruments.ENCODE_SECONDS, row.encode_seconds),
            (instruments.REFINEMENT_SECONDS, row.device_seconds),
        )
        for histogram, value in measured:
            if value is not None and math.isfinite(value):
                histogram.observe(value, variant=variant)


def _check_complete(unit: Unit, rows: Sequence[Row]) -> None:
    """Exactly one row for every image is what a commit promises, and commits are never changed."""
    planned, found = sorted(image.key for image in unit.images), sorted(row.image_key for row in rows)
    if planned != found:
        raise AssertionError(f"unit {unit.id} has {len(planned)} images, but {len(found)} rows")


def probe_image(workspace: Workspace, unit: Unit, attempt: str, image_key: str) -> None:
    """Does one image of a unit as `run_unit` would, and commits nothing; `run_unit` goes on from there."""
    for image in unit.images:
        if image.key == image_key:
            work = open_attempt(workspace, unit, attempt)
            with told_of_waiting(work.progress.alive):
                work.probe(image)


def open_attempt(workspace: Workspace, unit: Unit, attempt: str) -> Attempt | PackAttempt:
    """One execution of a unit; attempt: its name."""
    variant = workspace.spec.variant(unit.variant)
    coder = workspace.coder(variant)
    if isinstance(coder, PackCoder):
        return PackAttempt(workspace, coder, variant, unit, attempt)
    return Attempt(workspace, coder, variant, unit, attempt)
