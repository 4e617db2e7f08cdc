"""The command that asks a run's table."""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ncbatch.cli.common import open_run, store_options
from ncbatch.cli.console import out, print_table
from ncbatch.errors import UsageError
from ncbatch.exit_codes import ExitCode

if TYPE_CHECKING:
    import pyarrow as pa

_SUFFIXES = {".csv": "csv", ".json": "json", ".parquet": "parquet"}


def query(args: argparse.Namespace) -> int:
    sql = _sql(args)
    form = args.format or _SUFFIXES.get(Path(args.out or "").suffix.lower(), "table")
    if args.out and form == "table":
        raise UsageError(f"--out {args.out}: end its name in .csv, .json or .parquet, or give --format")
    if form == "parquet" and not args.out and sys.stdout.isatty():
        raise UsageError("--format parquet is not for a terminal; give --out FILE, or redirect the output")
    output = open_run(args, args.output)
    from ncbatch.metrics.query import query as run_query

    table = run_query(output, sql)
    if form == "table":
        print_table(table.column_names, (tuple(row.values()) for row in table.to_pylist()))
        return ExitCode.OK
    data = _written(table, form)
    if args.out:
        from ncbatch.store.objects import folder_of

        folder, name = folder_of(args.out, store_options(args), create=True)
        folder.put(name, data)
        rows = "1 row" if table.num_rows == 1 else f"{table.num_rows} rows"
        out.print(f"{args.out}: {rows}")
    elif form == "parquet":
        sys.stdout.buffer.write(data)
    else:
        sys.stdout.write(data.decode())
    return ExitCode.OK


def _sql(args: argparse.Namespace) -> str:
    """The SQL of the command line, of a file, or of standard input."""
    if (args.sql is None) == (args.file is None):
        raise UsageError("give the SQL as an argument, or the file that holds it with --file")
    if args.sql is not None:
        return str(args.sql)
    if args.file == "-":
        return sys.stdin.read()
    try:
        return Path(args.file).read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--file {args.file} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"--file {args.file} is not a text file in UTF-8") from error


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
