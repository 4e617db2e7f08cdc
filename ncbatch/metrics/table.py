"""Reading a run's metrics table as a whole, complete at any moment of the run."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from ncbatch.metrics.errors import MetricsError
from ncbatch.metrics.query import query
from ncbatch.metrics.schema import SCHEMA
from ncbatch.store import Store


def read_table(store: Store, *, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of every unit committed so far, one for each image and variant, ordered by these two.

    Of several generations the highest counts. Before the first commit the table is empty and has its columns
    all the same. The table is held in memory: `query` answers questions about large runs without.

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
    names = ", ".join(f'"{name}"' for name in wanted)
    table = query(store, f"select {names} from metrics order by image_key, variant")
    schema = pa.schema([SCHEMA.field(name) for name in wanted], metadata=SCHEMA.metadata)
    batches = table.cast(pa.schema([field.with_nullable(True) for field in schema])).to_batches()
    return pa.Table.from_batches(
        [pa.RecordBatch.from_arrays(batch.columns, schema=schema) for batch in batches], schema
    )
