"""The metrics table of a run: one row for every (image, variant), readable while the run is writing it."""

from ncbatch.metrics.compact import CompactResult, compact
from ncbatch.metrics.errors import MetricsError
from ncbatch.metrics.query import query
from ncbatch.metrics.schema import SCHEMA, Row, parquet_to_table, rows_to_parquet
from ncbatch.metrics.summary import Summary, summarise
from ncbatch.metrics.table import read_table

__all__ = [
    "SCHEMA",
    "CompactResult",
    "MetricsError",
    "Row",
    "Summary",
    "compact",
    "parquet_to_table",
    "query",
    "read_table",
    "rows_to_parquet",
    "summarise",
]
