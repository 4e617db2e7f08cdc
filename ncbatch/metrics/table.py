"""Reading a run's metrics table, complete at any moment of the run."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from ncbatch.metrics.errors import MetricsError
from ncbatch.metrics.keys import UNITS_PREFIX, manifest_key, unit_key, unit_of_key
from ncbatch.metrics.manifest import REBUILD, Manifest, Part, newest_manifest
from ncbatch.metrics.schema import SCHEMA, parquet_to_table
from ncbatch.store import ObjectNotFound, Store

_THREADS = 16
_IN_FLIGHT = 4 * _THREADS

# What decides which row is the newest of its (image, variant).
_IDENTITY = ("image_key", "variant", "generation", "unit", "attempt")

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def read_table(store: Store, *, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of every unit committed so far, one for each (image_key, variant), ordered by these two.

    Of several generations the highest wins. `columns` selects and orders columns; an unknown one is a
    MetricsError, as is an object of the table that is missing, damaged or of other origin. Without any commit
    the table is empty and has the columns all the same.
    """
    wanted = list(SCHEMA.names if columns is None else columns)
    unknown = [name for name in wanted if name not in SCHEMA.names]
    if unknown:
        raise MetricsError(f"There is no column {unknown[0]!r}; the columns are {', '.join(SCHEMA.names)}.")
    read = [name for name in SCHEMA.names if name in wanted or name in _IDENTITY]
    # The manifest comes first: units committed after it was read are found by the listing all the same.
    manifest = newest_manifest(store)
    parts = in_parallel(lambda part: _read_part(store, manifest, part, read), manifest.parts)
    units = read_units(store, uncovered_units(store, manifest), read)
    schema = pa.schema([SCHEMA.field(name) for name in read], metadata=SCHEMA.metadata)
    table = pa.concat_tables([schema.empty_table(), *parts, *units])
    return _newest(table).select(wanted)


def uncovered_units(store: Store, manifest: Manifest) -> list[str]:
    """The committed units whose rows are in no part of the manifest, in order."""
    covered = set(manifest.units)
    units = (unit_of_key(info.key) for info in store.list(UNITS_PREFIX))
    return sorted(unit for unit in units if unit is not None and unit not in covered)


def read_units(
    store: Store, units: Sequence[str], columns: Sequence[str] | None = None
) -> Iterator[pa.Table]:
    """The rows of each unit's commit, fetched ahead of the consumer by a bounded number of objects."""
    # Only the waiting is done in threads: parsing many small files in several of them at once takes longer.
    for unit, data in zip(units, in_parallel(lambda unit: store.get(unit_key(unit)), units), strict=True):
        try:
            yield parquet_to_table(data, columns)
        except MetricsError as error:
            raise MetricsError(f"{unit_key(unit)}: {error}") from error


def in_parallel(function: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
    """`map` with threads, keeping the order; stops fetching when the consumer stops or something fails."""
    remaining = iter(items)
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="metrics") as pool:
        pending = [pool.submit(function, item) for item in islice(remaining, _IN_FLIGHT)]
        try:
            while pending:
                yield pending.pop(0).result()
                pending += [pool.submit(function, item) for item in islice(remaining, 1)]
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _read_part(store: Store, manifest: Manifest, part: Part, columns: Sequence[str]) -> pa.Table:
    listed = f"{part.key}, which {manifest_key(manifest.n)} lists,"
    try:
        data = store.get(part.key)
    except ObjectNotFound as error:
        raise MetricsError(f"{listed} is missing; {REBUILD}.") from error
    if hashlib.sha256(data).hexdigest() != part.sha256:
        raise MetricsError(f"{listed} has other bytes than were written; {REBUILD}.")
    return parquet_to_table(data, columns)


def _newest(table: pa.Table) -> pa.Table:
    # Unit and attempt only make the choice the same every time, should two plans of one generation overlap.
    order = [("image_key", "ascending"), ("variant", "ascending")]
    order += [(name, "descending") for name in ("generation", "unit", "attempt")]
    table = table.take(pc.sort_indices(table, sort_keys=order)).combine_chunks()
    if len(table) < 2:
        return table
    first = pa.array([True])
    same = pc.and_(*(pc.equal(table[name][1:], table[name][:-1]) for name in ("image_key", "variant")))
    return table.filter(pa.chunked_array([first, *pc.invert(same).chunks]))
