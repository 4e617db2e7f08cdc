"""Which bitstreams and packs the rows of a run refer to, those of every generation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from ncbatch.layout import METRICS_PREFIX
from ncbatch.metrics.table import read_part_columns, read_units, uncovered_units
from ncbatch.store import Store

_COLUMNS = ("unit", "bitstream_key")


def published_keys(store: Store) -> tuple[set[str], set[str]]:
    """The keys that rows refer to, and the committed units.

    Raises:
        MetricsError: an object of the table is damaged.
    """
    keys, units = set[str](), set[str]()
    parts = [info for info in store.list(METRICS_PREFIX) if info.key.endswith(".parquet")]
    for table in (read_part_columns(store, info, _COLUMNS) for info in parts):
        _add(table, keys, units)
    for table in _of_units(store, uncovered_units(store, units)):
        _add(table, keys, units)
    return keys, units


def published_since(store: Store, units: set[str]) -> set[str]:
    """The keys that the rows of later commits refer to; units: those that were committed before."""
    keys = set[str]()
    for table in _of_units(store, uncovered_units(store, units)):
        _add(table, keys, set())
    return keys


def _of_units(store: Store, units: Iterable[str]) -> Iterator[pa.Table]:
    return read_units(store, list(units), _COLUMNS)


def _add(table: pa.Table, keys: set[str], units: set[str]) -> None:
    units.update(pc.unique(table["unit"]).to_pylist())
    keys.update(pc.unique(table["bitstream_key"].drop_null()).to_pylist())
