"""The command that asks a run's table."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from ncbatch.cli.common import Run, Storage, open_run
from ncbatch.cli.console import out, print_table
from ncbatch.cli.flags import command
from ncbatch.errors import UsageError
from ncbatch.exit_codes import ExitCode
from ncbatch.settings import Setting, key_text

if TYPE_CHECKING:
    import pyarrow as pa

_SUFFIXES = {".csv": "csv", ".json": "json", ".parquet": "parquet"}


@command
def query(
    run: Run,
    sql: Annotated[str | None, Setting('such as "select * from metrics limit 5"', "SQL", key_text)] = None,
    /,
    *,
    file: Annotated[str | None, Setting(
        "file with the SQL, - for standard input", "PATH", default="SQL as an argument",
    )] = None,
    format: Annotated[Literal["table", "csv", "json", "parquet"] | None, Setting(
        "how rows are written", default="by the suffix of --out, else a table",
    )] = None,
    to: Annotated[str | None, Setting(
        "file or s3:// object to write the rows to", "FILE", name="out", default="standard output",
    )] = None,
    store: Storage,
) -> ExitCode:  # fmt: skip
    """Asks a run's table in SQL, and prints or writes the answer."""
    asked = _sql(sql, file)
    form = format or _SUFFIXES.get(Path(to or "").suffix.lower(), "table")
    if to and form == "table":
        raise UsageError(f"--out {to}: end its name in .csv, .json or .parquet, or give --format")
    if form == "parquet" and not to and sys.stdout.isatty():
        raise UsageError("--format parquet is not for a terminal; give --out FILE, or redirect the output")
    output = open_run(run, store)
    from ncbatch.metrics.query import query as run_query

    table = run_query(output, asked)
    if form == "table":
        print_table(table.column_names, (tuple(row.values()) for row in table.to_pylist()))
        return ExitCode.OK
    data = _written(table, form)
    if to:
        from ncbatch.store.objects import folder_of

        folder, name = folder_of(to, store, create=True)
        folder.put(name, data)
        rows = "1 row" if table.num_rows == 1 else f"{table.num_rows} rows"
        out.print(f"{to}: {rows}")
    elif form == "parquet":
        sys.stdout.buffer.write(data)
    else:
        sys.stdout.write(data.decode())
    return ExitCode.OK


def _sql(sql: str | None, file: str | None) -> str:
    """The SQL of the command line, of a file, or of standard input."""
    if sql is not None and file is None:
        return sql
    if file is None or sql is not None:
        raise UsageError("give the SQL as an argument, or the file that holds it with --file")
    if file == "-":
        return sys.stdin.read()
    try:
        return Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--file {file} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"--file {file} is not a text file in UTF-8") from error


def _written(table: pa.Table, form: str) -> bytes:
    if form == "json":
        return (json.dumps(table.to_pylist(), default=str, indent=2) + "\n").encode()
    if form == "csv":
        # pyarrow's writer quotes every name and text, which cut, awk and the like do not expect.
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(table.column_names)
        writer.writerows(zip(*(column.to_pylist() for column in table.columns), strict=True))
        return text.getvalue().encode()
    from pyarrow import parquet

    sink = io.BytesIO()
    parquet.write_table(table, sink, compression="zstd")
    return sink.getvalue()
