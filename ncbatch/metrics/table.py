"""Reading a run's metrics table, complete at any moment of the run."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from ncbatch.layout import METRICS_PREFIX, UNITS_PREFIX, unit_key, unit_of_key
from ncbatch.metrics.errors import MetricsError
from ncbatch.metrics.schema import SCHEMA, parquet_to_table
from ncbatch.store import ObjectInfo, ObjectNotFound, Store

_THREADS = 16
_IN_FLIGHT = 4 * _THREADS

# What decides which row is the newest of its (image, variant).
_IDENTITY = ("image_key", "variant", "generation", "unit", "attempt")

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def read_table(store: Store, *, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of every unit committed so far, one for each image and variant, ordered by these two.

    Of several generations the highest counts. Before the first commit the table is empty and has its columns
    all the same.

    Args:
        store: the run's folder.
        columns: names of the columns wanted, in their order; by default all of them.

    Raises:
        MetricsError: a column is unknown, or an object of the table is missing, damaged or of another origin.
    """
    wanted = list(SCHEMA.names if columns is None else columns)
    unknown = [name for name in wanted if name not in SCHEMA.names]
    if unknown:
        raise MetricsError(f"there is no column {unknown[0]!r}; the columns are {', '.join(SCHEMA.names)}")
    read = [name for name in SCHEMA.names if name in wanted or name in _IDENTITY]
    # The parts come first: units committed after they were read are found by the listing all the same.
    found = [info.key for info in store.list(METRICS_PREFIX) if info.key.endswith(".parquet")]
    parts = [
        part for part in in_parallel(lambda key: _read_part(store, key, read), found) if part is not None
    ]
    covered = {unit for part in parts for unit in pc.unique(part["unit"]).to_pylist()}
    units = read_units(store, uncovered_units(store, covered), read)
    schema = pa.schema([SCHEMA.field(name) for name in read], metadata=SCHEMA.metadata)
    # No `schema.empty_table()`, and no `pa.array` of a list below: they load pandas, half a second.
    table = pa.concat_tables([pa.Table.from_batches([], schema), *parts, *units])
    return _newest(table).select(wanted)


def uncovered_units(store: Store, covered: Set[str]) -> list[str]:
    """The committed units that are not among those covered by parts, in order."""
    units = (unit_of_key(info.key) for info in store.list(UNITS_PREFIX))
    return sorted(unit for unit in units if unit is not None and unit not in covered)


def read_units(
    store: Store, units: Sequence[str], columns: Sequence[str] | None = None
) -> Iterator[pa.Table]:
    """The rows of each unit's commit, in the order of `units`.

    Objects are fetched ahead of the consumer, a bounded number of them.

    Raises:
        MetricsError: a commit is damaged.
    """
    # Only the waiting is done in threads: parsing many small files in several of them at once takes longer.
    for unit, data in zip(units, in_parallel(lambda unit: store.get(unit_key(unit)), units), strict=True):
        try:
            yield parquet_to_table(data, columns)
        except MetricsError as error:
            raise MetricsError(f"{unit_key(unit)}: {error}") from error


def in_parallel(function: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
    """`map` in threads, in order; stops fetching when the consumer stops or something fails."""
    remaining = iter(items)
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="metrics") as pool:
        pending = [pool.submit(function, item) for item in islice(remaining, _IN_FLIGHT)]
        try:
            while pending:
                yield pending.pop(0).result()
                pending += [pool.submit(function, item) for item in islice(remaining, 1)]
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _read_part(store: Store, key: str, columns: Sequence[str]) -> pa.Table | None:
    """A part's rows; None where it has gone since the listing, and its rows are read from the unit
    commits.
    """
    try:
        data = store.get(key)
    except ObjectNotFound:
        return None
    return _parsed_part(key, data, columns)


def read_part_columns(store: Store, info: ObjectInfo, columns: Sequence[str]) -> pa.Table:
    """Some columns of a part of the compacted table; no other bytes of it are fetched."""
    return _parsed_part(info.key, pa.PythonFile(_Ranges(store, info), mode="r"), columns)


def _parsed_part(key: str, source: bytes | pa.NativeFile, columns: Sequence[str]) -> pa.Table:
    try:
        return parquet_to_table(source, columns)
    except MetricsError as error:
        # True whatever happened to the compacted table, since unit commits are never deleted.
        raise MetricsError(
            f"{key}: {error}; it can be deleted, since every row is still in the unit commits, and `ncbatch "
            "compact` merges them again"
        ) from error


class _Ranges(io.RawIOBase):
    """An object as a file in which one can seek; a read fetches its own bytes only."""

    def __init__(self, store: Store, info: ObjectInfo) -> None:
        self._store, self._info, self._at = store, info, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._info.size}[whence]
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        left = max(self._info.size - self._at, 0)
        count = left if size is None or size < 0 else min(size, left)
        data = self._store.get_range(self._info.key, self._at, count) if count else b""
        self._at += len(data)
        return data


def _newest(table: pa.Table) -> pa.Table:
    # Unit and attempt only make the choice the same every time, should two plans of one generation overlap.
    order = [("image_key", "ascending"), ("variant", "ascending")]
    order += [(name, "descending") for name in ("generation", "unit", "attempt")]
    table = table.take(pc.sort_indices(table, sort_keys=order)).combine_chunks()
    if len(table) < 2:
        return table
    first = pc.is_valid(table["image_key"][:1])  # true, as every row has a key
    same = pc.and_(*(pc.equal(table[name][1:], table[name][:-1]) for name in ("image_key", "variant")))
    return table.filter(pa.chunked_array([*first.chunks, *pc.invert(same).chunks]))
