"""Merging many small unit commits into few large Parquet objects."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from ncbatch.metrics.errors import MetricsError
from ncbatch.metrics.keys import manifest_key, part_key
from ncbatch.metrics.manifest import REBUILD, Manifest, Part, newest_manifest
from ncbatch.metrics.schema import table_to_parquet
from ncbatch.metrics.table import read_units, uncovered_units
from ncbatch.store import Store

_PART_ROWS = 1_000_000
_TRIES = 50


@dataclass(frozen=True)
class CompactResult:
    """The compacted table as it stands: the manifest's number (0: none), and its parts, rows and units."""

    manifest: int
    parts: int
    rows: int
    units: int


def compact(store: Store) -> CompactResult:
    """Merge the unit commits that no manifest covers yet, and publish a manifest that covers them.

    Writes nothing when there is nothing new. Unit commits stay, and so do the rows of every generation: which
    of them is the newest is for the reader to say. Any number of compactions may run at once.
    """
    for _ in range(_TRIES):
        manifest = newest_manifest(store)
        units = uncovered_units(store, manifest)
        if not units:
            return _result(manifest)
        parts = tuple(_write_part(store, table) for table in _batches(store, units))
        grown = Manifest(manifest.n + 1, manifest.parts + parts, (*manifest.units, *units))
        if store.put_if_absent(manifest_key(grown.n), grown.to_json()):
            return _result(grown)
        # Another compaction published this number first: what it left uncovered is the work now. Parts that
        # were written here and that no manifest lists are never read.
    raise MetricsError("Other compactions published first every time; run compact again when they are done.")


def _result(manifest: Manifest) -> CompactResult:
    rows = sum(part.rows for part in manifest.parts)
    return CompactResult(manifest.n, len(manifest.parts), rows, len(manifest.units))


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


def _write_part(store: Store, table: pa.Table) -> Part:
    data = table_to_parquet(table)
    digest = hashlib.sha256(data).hexdigest()
    part = Part(part_key(digest), len(table), digest)
    # Named by its contents, so an equal object that stands there already is this one.
    if not store.put_if_absent(part.key, data):
        raise MetricsError(f"{part.key} has other bytes than its name says; {REBUILD}.")
    return part
