"""Errors of the metrics table that a user can meet."""

from ncbatch.errors import NcbatchError


class MetricsError(NcbatchError):
    """An object is no part of a metrics table, rows do not fit it, or DuckDB refuses the SQL."""
