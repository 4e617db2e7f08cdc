"""Which bitstreams, packs and tars the rows of a run refer to, those of every generation."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from ncbatch.metrics.objects import find_objects
from ncbatch.metrics.parts import read_columns
from ncbatch.metrics.unit_commits import list_units, read_units
from ncbatch.store import Store

_COLUMNS = ("bitstream_key",)


def published_keys(store: Store) -> tuple[set[str], set[str]]:
    """The keys that rows refer to, and the committed units.

    Raises:
        MetricsError: an object of the table is damaged.
    """
    found, keys = find_objects(store, recent=False), set[str]()
    for table in (read_columns(store, part.info, _COLUMNS) for part in found.parts):
        _add(table, keys)
    for table in read_units(store, found.loose, _COLUMNS):
        _add(table, keys)
    return keys, set(found.units)


def superseded_keys(store: Store) -> set[str]:
    """The keys that only rows refer to of which a later generation has an ok row of the same image.

    What an image became before it failed stays.
    """
    objects = find_objects(store, recent=False)
    if objects.versions == "one":
        return set()
    from ncbatch.metrics.query import open_table  # here, since DuckDB is slow to import

    with open_table(store, objects) as table:
        return set(table.superseded()["bitstream_key"].to_pylist())


def published_since(store: Store, units: set[str]) -> set[str]:
    """The keys that the rows of later commits refer to; units: those that were committed before."""
    keys = set[str]()
    for table in read_units(store, [unit for unit in list_units(store) if unit not in units], _COLUMNS):
        _add(table, keys)
    return keys


def _add(table: pa.Table, keys: set[str]) -> None:
    keys.update(pc.unique(table["bitstream_key"].drop_null()).to_pylist())
