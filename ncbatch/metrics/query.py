"""SQL over a run's metrics table."""

from __future__ import annotations

import contextlib

import duckdb
import pyarrow as pa

from ncbatch.metrics.errors import MetricsError
from ncbatch.metrics.schema import SCHEMA
from ncbatch.metrics.table import read_table
from ncbatch.store import Store

# The SQL may come from somebody else than the owner of this machine: it sees the table and nothing more,
# neither files nor the network nor Python's variables, and cannot switch that on again.
_SEALED: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "enable_external_access": False,
    "python_enable_replacements": False,
}


def query(store: Store, sql: str) -> pa.Table:
    """The result of a query over a run's table, which the SQL calls `metrics`.

    The SQL sees that table and nothing else: neither files nor the network.

    Raises:
        MetricsError: the SQL is wrong (in DuckDB's own words), or the table is damaged.
    """
    return query_table(read_table(store), sql)


def query_table(table: pa.Table, sql: str) -> pa.Table:
    """The result of a query over a table that was read before. Times are in UTC, as the table has them.

    Raises:
        MetricsError: the SQL is wrong, in DuckDB's own words.
    """
    with duckdb.connect(":memory:", config=_SEALED) as connection:
        with contextlib.suppress(duckdb.Error):  # a DuckDB that was built without time zones has UTC only
            connection.execute("set TimeZone = 'UTC'")
        connection.execute("set lock_configuration = true")
        connection.register("metrics", table)
        try:
            if len(connection.extract_statements(sql)) > 1:
                raise MetricsError("the SQL is several statements; give one at a time")
            relation = connection.sql(sql)
            if relation is not None:
                return relation.to_arrow_table()
        except duckdb.Error as error:
            raise MetricsError(_explain(error)) from error
    raise MetricsError("the SQL gives no rows; write a select over the table metrics")


def relation(table: pa.Table, connection: duckdb.DuckDBPyConnection | None = None) -> duckdb.DuckDBPyRelation:
    """A table as a DuckDB relation.

    Args:
        table: Any Arrow table; it is not copied.
        connection: The connection that the relation belongs to; by default DuckDB's own.
    """
    return connection.from_arrow(table) if connection is not None else duckdb.from_arrow(table)


def _explain(error: duckdb.Error) -> str:
    # DuckDB's message goes on with the line of SQL and a caret under it; a single line has no room for that.
    lines = [line.strip() for line in str(error).split("\n\n")[0].splitlines() if line.strip()]
    text = " ".join(lines[:3]).rstrip(".!")
    if isinstance(error, duckdb.BinderException) and "not found" in text.lower():
        return f"{text}; the columns of metrics are {', '.join(SCHEMA.names)}"
    if isinstance(error, duckdb.CatalogException) and "table" in text.lower():
        return f"{text}; the only table is metrics"
    if isinstance(error, duckdb.PermissionException):
        return f"{text}; a query can read the table metrics and nothing else"
    return f"{text}; correct the SQL"
