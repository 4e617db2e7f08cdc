"""Merging many small unit commits into few large Parquet objects."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from ncbatch.layout import METRICS_PREFIX, is_of_old_layout, number_of_part, part_key
from ncbatch.metrics.errors import MetricsError
from ncbatch.metrics.schema import table_to_parquet
from ncbatch.metrics.table import read_part_columns, read_units, uncovered_units
from ncbatch.store import Store

log = logging.getLogger(__name__)

_PART_ROWS = 1_000_000
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


@dataclass
class _Covered:
    """What the parts that stand there hold."""

    last: int = 0
    parts: int = 0
    rows: int = 0
    units: frozenset[str] = frozenset()

    def add(self, n: int, units: Sequence[str]) -> None:
        self.last, self.parts, self.rows = max(self.last, n), self.parts + 1, self.rows + len(units)
        self.units |= set(units)


def compact(store: Store) -> CompactResult:
    """Puts the rows of the unit commits that no part covers yet into new parts.

    Nothing is written where there is nothing new. Unit commits stay, and so do the rows of every generation;
    readers say which of them is the newest. Any number of compactions may run at once: a part is published
    under the next number by a create-only put, and whoever loses that race looks again at what is left, so no
    row is ever in two parts. (On stores that ignore create-only puts, let one run at a time.)

    Raises:
        MetricsError: a unit's commit or a part is damaged.
    """
    _put_old_layout_away(store)
    for _ in range(_TRIES):
        covered = _covered(store)
        if _extend(store, covered):
            return CompactResult(covered.parts, covered.rows, len(covered.units))
    raise MetricsError("other compactions published first every time; run compact again when they are done")


def _extend(store: Store, covered: _Covered) -> bool:
    """Writes parts until every unit is covered; False when another compaction was faster."""
    for table in _batches(store, uncovered_units(store, covered.units)):
        number = covered.last + 1
        if not store.put_if_absent(part_key(number), table_to_parquet(table)):
            return False
        covered.add(number, table["unit"].to_pylist())
    return True


def _covered(store: Store) -> _Covered:
    covered = _Covered()
    for info in store.list(METRICS_PREFIX):
        number = number_of_part(info.key)
        if number is not None:
            covered.add(number, read_part_columns(store, info, ["unit"])["unit"].to_pylist())
    return covered


def _put_old_layout_away(store: Store) -> None:
    """Deletes the parts and manifests of a run that was compacted before parts were numbered.

    Nothing is lost: the unit commits have every row, and readers take them from there meanwhile.
    """
    old = [info.key for info in store.list(METRICS_PREFIX) if is_of_old_layout(info.key)]
    if old:
        log.info("%s%s: compacting again what an earlier ncbatch compacted", store.uri, METRICS_PREFIX)
    for key in old:
        store.delete(key)


def _batches(store: Store, units: list[str]) -> Iterator[pa.Table]:
    """The units' rows in tables of about _PART_ROWS rows; a unit is never split."""
    tables: list[pa.Table] = []
    for table in read_units(store, units):
        if tables and sum(map(len, tables)) + len(table) > _PART_ROWS:
            yield pa.concat_tables(tables)
            tables = []
        tables.append(table)
    if tables:
        yield pa.concat_tables(tables)
