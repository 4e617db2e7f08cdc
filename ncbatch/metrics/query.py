"""SQL over a run's metrics table, which is read as far as a query needs it and never held as a whole."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa

from ncbatch.metrics.errors import MetricsError
from ncbatch.metrics.findings import findings_dataset
from ncbatch.metrics.objects import TableObjects, Versions, find_objects
from ncbatch.metrics.schema import SCHEMA
from ncbatch.metrics.sources import gather
from ncbatch.store import LocalStore, Store

if TYPE_CHECKING:
    from pyarrow.dataset import Dataset

# The SQL may come from somebody else than the owner of this machine: it sees the table and nothing more,
# neither files nor the network nor Python's variables, and cannot switch that on again.
_SEALED: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "enable_external_access": False,
    "python_enable_replacements": False,
}

# No `not exists`, for which DuckDB would hold all rows, since one of the conditions is an inequality.
_NEWER = """
create temp table _newer as
    select image_key, variant, max(generation) as generation from _rows where generation > 0 group by all;
create temp view metrics as select * from _rows anti join _newer on
    _newer.image_key = _rows.image_key and _newer.variant = _rows.variant
    and _newer.generation > _rows.generation;
"""
# Unit and attempt only make the choice the same every time, should two plans of one generation overlap.
_NEWEST = """
create temp view metrics as select * from _rows qualify row_number() over (
    partition by image_key, variant order by generation desc, unit desc, attempt desc) = 1
"""
_VIEWS: dict[Versions, str] = {
    "one": "create temp view metrics as select * from _rows",
    "newer": _NEWER,
    "any": _NEWEST,
}

_SUPERSEDED = """
with replaced as (
    select image_key, variant, max(generation) as generation from _rows
    where status = 'ok' and generation > 0 group by all),
kept as (
    select distinct bitstream_key from _rows anti join replaced on replaced.image_key = _rows.image_key
    and replaced.variant = _rows.variant and replaced.generation > _rows.generation
    where bitstream_key is not null)
select distinct bitstream_key from _rows anti join kept using (bitstream_key) where bitstream_key is not null
"""

_BATCH_ROWS = 32 * 1024
_FINDINGS = re.compile(r"\bfindings\b", re.IGNORECASE)

_OF_THE_SQL = (
    duckdb.ParserException, duckdb.BinderException, duckdb.CatalogException, duckdb.PermissionException,
    duckdb.ConversionException, duckdb.OutOfRangeException, duckdb.SyntaxException,
)  # fmt: skip
"""Errors that the SQL is to blame for, not the table."""


def query(store: Store, sql: str) -> pa.Table:
    """The result of a query over a run's table, which the SQL calls `metrics`.

    The SQL sees that table and nothing else: neither files nor the network. Of several generations of an
    image it sees the newest. Where it names `findings`, it sees what finished checks on a cluster found, too.

    Raises:
        MetricsError: the SQL is wrong (in DuckDB's own words), or the table is damaged.
    """
    beside = {"findings": findings_dataset(store)} if _FINDINGS.search(sql) else {}
    with open_table(store) as table:
        return table.query(sql, beside)


class OpenTable:
    """A run's table as it stood when it was opened, for any number of queries; made by `open_table`."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, find_damage: Callable[[], None]) -> None:
        self._connection, self._find_damage = connection, find_damage

    def query(self, sql: str, beside: Mapping[str, pa.Table | Dataset] | None = None) -> pa.Table:
        """The result of a query over the table `metrics`. Times are in UTC, as the table has them.

        Args:
            sql: the query.
            beside: other tables that it names.

        Raises:
            MetricsError: the SQL is wrong, in DuckDB's own words, or a part of the table is damaged.
        """
        for name, table in (beside or {}).items():
            self._connection.register(name, table)
        with self._explained():
            if len(self._connection.extract_statements(sql)) > 1:
                raise MetricsError("the SQL is several statements; give one at a time")
            relation = self._connection.sql(sql)
            if relation is not None:
                return relation.to_arrow_table()
        raise MetricsError("the SQL gives no rows; write a select over the table metrics")

    def superseded(self) -> pa.Table:
        """The keys (`bitstream_key`) that only rows refer to of which a later generation has an ok row of the
        same image.
        """
        with self._explained():
            return self._connection.sql(_SUPERSEDED).to_arrow_table()

    @contextlib.contextmanager
    def batches(self, sql: str) -> Iterator[pa.RecordBatchReader]:
        """As `query`, batch by batch: for results that do not fit into memory."""
        with self._explained():
            relation = self._connection.sql(sql)
            yield relation.to_arrow_reader(_BATCH_ROWS)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Makes one line of DuckDB's errors; where a part may be at fault, it is looked for and named."""
        try:
            yield
        except duckdb.Error as error:
            if not isinstance(error, _OF_THE_SQL):
                self._find_damage()
            raise MetricsError(_explain(error)) from error

    def define(self, names: list[str], versions: Versions) -> None:
        """Makes the view `metrics` of the rows that are registered by these names."""
        rows = " union all ".join(f"select * from {name}" for name in names)
        with self._explained():
            self._connection.execute(f"create temp view _rows as {rows}")
            self._connection.execute(_VIEWS[versions])


@contextlib.contextmanager
def open_table(store: Store, objects: TableObjects | None = None) -> Iterator[OpenTable]:
    """Opens a run's table for queries.

    Args:
        store: the run's folder.
        objects: those that make up its table, where they are known.

    Raises:
        MetricsError: an object of the table is damaged.
    """
    objects = find_objects(store) if objects is None else objects
    with tempfile.TemporaryDirectory(prefix="ncbatch-") as folder, _connected(folder) as connection:
        sources = gather(store, objects, LocalStore(Path(folder) / "rows", create=True))
        rows = {f"_parts_{number}": part for number, part in enumerate(sources.parts)}
        rows["_held"] = sources.held
        for name, table in rows.items():
            connection.register(name, table)
        opened = OpenTable(connection, sources.find_damage)
        opened.define(list(rows), sources.objects.versions)
        # DuckDB takes a data set for one row, and would hold the table to look up few other rows in it.
        connection.execute("set disabled_optimizers = 'build_side_probe_side'")
        connection.execute("set lock_configuration = true")
        yield opened


@contextlib.contextmanager
def opened_rows(table: pa.Table) -> Iterator[OpenTable]:
    """A table that was read before, for any number of queries. Times are in UTC, as the table has them."""
    with tempfile.TemporaryDirectory(prefix="ncbatch-") as folder, _connected(folder) as connection:
        connection.register("metrics", table)
        connection.execute("set lock_configuration = true")
        yield OpenTable(connection, lambda: None)


@contextlib.contextmanager
def _connected(folder: str) -> Iterator[duckdb.DuckDBPyConnection]:
    """folder: for what does not fit into memory."""
    with duckdb.connect(":memory:", config={**_SEALED, "temp_directory": folder}) as connection:
        with contextlib.suppress(duckdb.Error):  # a DuckDB that was built without time zones has UTC only
            connection.execute("set TimeZone = 'UTC'")
        yield connection


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
        return f"{text}; the only table is metrics, and findings beside it"
    if isinstance(error, duckdb.PermissionException):
        return f"{text}; a query can read the table metrics and nothing else"
    return f"{text}; correct the SQL"
