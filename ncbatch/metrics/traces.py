"""The side table of a run that traces its refinements: one row per picture and look."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ncbatch.metrics.keys import TRACES_PREFIX, trace_key
from ncbatch.store import Store

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
    """Writes a unit's looks, over those of an earlier attempt."""
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows), schema=SCHEMA), sink, compression="zstd")
    store.put(trace_key(unit), sink.getvalue())


def read_traces(store: Store) -> pa.Table:
    """All looks of a run, by variant, image and step; empty where nothing was traced."""
    tables = [
        pq.read_table(pa.BufferReader(store.get(info.key)), schema=SCHEMA)
        for info in store.list(TRACES_PREFIX)
    ]
    table = pa.concat_tables(tables) if tables else SCHEMA.empty_table()
    return table.sort_by([("variant", "ascending"), ("image_key", "ascending"), ("step", "ascending")])
