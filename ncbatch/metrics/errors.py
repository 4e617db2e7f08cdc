"""Errors of the metrics table that a user can meet."""

from ncbatch.errors import NcbatchError


class MetricsError(NcbatchError):
    """An object that is no part of a metrics table, rows that do not fit it, or SQL that DuckDB refuses."""
