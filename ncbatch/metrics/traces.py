"""The side table of a run that traces its refinements: one row for each image and traced step."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ncbatch.layout import TRACES_PREFIX, trace_key
from ncbatch.store import ObjectNotFound, Store

SCHEMA = pa.schema(
    [
        ("variant", pa.string()),
        ("image_key", pa.string()),
        ("step", pa.int64()),
        ("tau", pa.float64()),
        ("information_bpp", pa.float64()),
        ("psnr", pa.float64()),
        ("rd_loss", pa.float64()),
    ]
)


def write_trace(store: Store, unit: str, rows: Sequence[dict[str, Any]]) -> None:
    """Writes a unit's traced steps, over those of an earlier attempt."""
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows), schema=SCHEMA), sink, compression="zstd")
    store.put(trace_key(unit), sink.getvalue())


def read_traces(store: Store, units: Iterable[str] | None = None) -> pa.Table:
    """The traced steps, ordered by variant, image and step.

    Args:
        store: the run's folder.
        units: reads only these; by default all of the run.

    Returns:
        An empty table where nothing was traced.
    """
    traced: Iterator[str] = (info.key for info in store.list(TRACES_PREFIX))
    if units is not None:
        # A listing of all that was traced would be long in a large run; that nothing was is told at once.
        traced = iter([trace_key(unit) for unit in units] if next(traced, None) else [])
    tables = [SCHEMA.empty_table()]
    for key in traced:
        with contextlib.suppress(ObjectNotFound):  # a unit that had nothing to refine
            tables.append(pq.read_table(pa.BufferReader(store.get(key)), schema=SCHEMA))
    order = [("variant", "ascending"), ("image_key", "ascending"), ("step", "ascending")]
    return pa.concat_tables(tables).sort_by(order)
