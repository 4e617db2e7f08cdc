"""Merging many small unit commits into few large Parquet objects.

Objects are created once and never changed, under numbers that are given once: whoever loses the race for
one looks again at what is left. So any number of compactions may go on at once, and each may be killed at any
time. Commits stay; what was merged into `recent/` is deleted by the compaction after the one that merged it
further, when readers that found it there are done. (On stores that ignore create-only puts two compactions
may merge the same commits; ncbatch reads them once all the same.)
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from ncbatch.layout import (
    METRICS_PREFIX,
    RECENT_PREFIX,
    is_of_old_layout,
    number_of_part,
    number_of_recent,
    part_key,
    recent_key,
)
from ncbatch.metrics.errors import MetricsError
from ncbatch.metrics.objects import Part, TableObjects, find_objects, find_parts
from ncbatch.metrics.parts import UnitSums, damaged, parts_of
from ncbatch.metrics.schema import parquet_to_table
from ncbatch.metrics.unit_commits import read_units
from ncbatch.store import ObjectNotFound, Store

log = logging.getLogger(__name__)

PART_ROWS = 250_000
"""Of a part; some forty megabytes, which are built in memory."""

_TRIES = 50


@dataclass(frozen=True)
class CompactResult:
    """The compacted table as it stands.

    Attributes:
        parts: how many objects it has.
        rows: in them, those of every generation.
        units: whose rows are in them.
    """

    parts: int
    rows: int
    units: int


class _OvertakenError(Exception):
    """Another compaction has published under the same number first, or deleted what it had merged."""


def compact(store: Store) -> CompactResult:
    """Puts the rows of the unit commits that no part covers yet into new parts.

    Nothing is written where there is nothing new. Unit commits stay, and so do the rows of every generation;
    readers say which of them is the newest.

    Raises:
        MetricsError: a unit's commit or a part is damaged.
    """
    _put_old_layout_away(store)
    return _merged(store, lambda: find_objects(store))


def merge_recent(store: Store) -> CompactResult:
    """As `compact`, of what stands in `recent/` only: what no part covers is not looked for."""
    return _merged(store, lambda: find_parts(store))


def fold(store: Store, units: Sequence[str]) -> int:
    """Merges the commits of some units into one object of `recent/`, but for those that a part covers.

    Returns:
        its rows; 0 where there is nothing to merge.
    """
    for _ in range(_TRIES):
        found = find_parts(store)
        left = sorted(set(units) - found.covered)
        if not left:
            return 0
        (writer,) = parts_of([pa.concat_tables(read_units(store, left))], PART_ROWS)
        taken = (number_of_recent(info.key) or 0 for info in store.list(RECENT_PREFIX))
        if store.put_if_absent(recent_key(max(taken, default=0) + 1), writer.finish()):
            return writer.rows
    raise _never_first()


def _merged(store: Store, find: Callable[[], TableObjects]) -> CompactResult:
    for _ in range(_TRIES):
        found = find()
        for key in found.superseded:
            store.delete(key)
        try:
            return _extend(store, found)
        except _OvertakenError:
            continue
    raise _never_first()


def _extend(store: Store, found: TableObjects) -> CompactResult:
    """Writes parts until every unit is covered."""
    numbers = [number_of_part(part.info.key) or 0 for part in found.parts]
    rows = sum(_rows(part.sums) for part in found.parts)
    units = sum(len(part.units) for part in found.parts)
    number, parts = max(numbers, default=0), len(numbers)
    for writer in parts_of(_tables(store, found), PART_ROWS):
        sums, number, parts = writer.sums, number + 1, parts + 1
        if not store.put_if_absent(part_key(number), writer.finish()):
            raise _OvertakenError
        rows, units = rows + _rows(sums), units + len(sums)
    return CompactResult(parts, rows, units)


def _tables(store: Store, found: TableObjects) -> Iterator[pa.Table]:
    """The rows that no part has, those of a unit together."""
    for part in found.recent:
        yield _recent_rows(store, part)
    yield from read_units(store, found.loose)


def _recent_rows(store: Store, part: Part) -> pa.Table:
    try:
        return parquet_to_table(store.get(part.info.key))
    except ObjectNotFound as error:
        raise _OvertakenError from error
    except MetricsError as error:
        raise damaged(part.info.key, str(error)) from error


def _rows(sums: list[UnitSums]) -> int:
    return sum(result.ok + result.failed for _, _, result in sums)


def _never_first() -> MetricsError:
    return MetricsError("other compactions published first every time; run compact again when they are done")


def _put_old_layout_away(store: Store) -> None:
    """Deletes the parts and manifests of a run that was compacted before parts were numbered.

    Nothing is lost: the unit commits have every row, and readers take them from there.
    """
    old = [info.key for info in store.list(METRICS_PREFIX) if is_of_old_layout(info.key)]
    if old:
        log.info("%s%s: compacting again what an earlier ncbatch compacted", store.uri, METRICS_PREFIX)
    for key in old:
        store.delete(key)
