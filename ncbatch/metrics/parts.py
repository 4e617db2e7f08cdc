"""Objects that hold the rows of many units: row groups, and in the footer what each of the units holds.

So one small request tells which units an object covers, and how many of their rows are ok.
"""

from __future__ import annotations

import base64
import io
import itertools
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, fields
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ncbatch.errors import first_line
from ncbatch.metrics.errors import MetricsError
from ncbatch.metrics.schema import SCHEMA, check_schema, parquet_to_table
from ncbatch.metrics.unit_result import UnitResult
from ncbatch.store import ObjectInfo, Store
from ncbatch.store.ranged_file import ObjectFile

_UNITS_KEY = b"ncbatch.units"
_GROUP_ROWS = 32 * 1024
_TAIL = 256 * 1024
"""Bytes at the end of an object that hold the footer, mostly."""

SUMMED = tuple(field.name for field in fields(UnitResult))
UnitSums = tuple[str, str, UnitResult]
"""A unit, its variant, and what its rows add up to."""

SUMMED_FROM = ("unit", "variant", "status", "image_bytes", "length", "bpp", "psnr")
"""The columns that `unit_sums` needs."""


def unit_sums(rows: pa.Table) -> list[UnitSums]:
    """What the rows of each unit add up to; those of a unit stand together.

    Args:
        rows: with at least SUMMED_FROM.
    """
    found, start = [], 0
    for _, unit in itertools.groupby(rows["unit"].to_pylist()):
        stop = start + sum(1 for _ in unit)
        found.append(sums_of_unit(rows.slice(start, stop - start)))
        start = stop
    return found


def sums_of_unit(rows: pa.Table) -> UnitSums:
    """What the rows of a single unit add up to."""
    # `starts_with`, since a comparison with a plain string loads pandas, which takes half a second.
    ok = rows.filter(pc.starts_with(rows["status"], pattern="ok"))
    finite = ok["psnr"].filter(pc.is_finite(ok["psnr"]))
    result = UnitResult(
        ok=len(ok),
        failed=len(rows) - len(ok),
        bpp=_sum(ok["bpp"]),
        psnr=_sum(finite),
        exact=len(ok) - len(finite),
        image_bytes=_sum(ok["image_bytes"]),
        length=_sum(ok["length"]),
    )
    return rows["unit"][0].as_py(), rows["variant"][0].as_py(), result


def _sum(values: pa.ChunkedArray) -> Any:
    return pc.sum(values).as_py() or 0


class PartWriter:
    """Builds such an object in memory, a row group at a time: a store gets whole objects or none."""

    def __init__(self) -> None:
        self._sink = io.BytesIO()
        self._writer = pq.ParquetWriter(self._sink, SCHEMA, compression="zstd", write_page_checksum=True)
        self._waiting: list[pa.Table] = []
        self.sums: list[UnitSums] = []
        self.rows = 0

    def add(self, rows: pa.Table) -> None:
        """Adds the rows of whole units."""
        self.sums += unit_sums(rows)
        self.rows += len(rows)
        self._waiting.append(rows)
        if sum(map(len, self._waiting)) >= _GROUP_ROWS:
            self._write_group()

    def finish(self) -> bytes:
        """The object. Nothing can be added any more."""
        self._write_group()
        self._writer.add_key_value_metadata({_UNITS_KEY: _packed(self.sums)})
        self._writer.close()
        return self._sink.getvalue()

    def _write_group(self) -> None:
        if not self._waiting:
            return
        rows = pa.concat_tables(self._waiting)
        self._waiting = []
        self._writer.write_table(rows, row_group_size=2 * _GROUP_ROWS)


def parts_of(tables: Iterable[pa.Table], rows: int) -> Iterator[PartWriter]:
    """The rows of whole units, in objects of up to so many rows, or of one unit that has more."""
    writer = PartWriter()
    for table in tables:
        if writer.rows and writer.rows + len(table) > rows:
            yield writer
            writer = PartWriter()
        writer.add(table)
    if writer.rows:
        yield writer


def _packed(sums: list[UnitSums]) -> bytes:
    """As text, since other readers of Parquet expect that of what stands in a footer."""
    rows = [[unit, variant, *astuple(result)] for unit, variant, result in sums]
    return base64.b64encode(zlib.compress(json.dumps(rows).encode()))


def _unpacked(content: bytes) -> list[UnitSums]:
    rows = json.loads(zlib.decompress(base64.b64decode(content, validate=True)))
    return [(unit, variant, UnitResult(*result)) for unit, variant, *result in rows]


def read_sums(store: Store, info: ObjectInfo) -> list[UnitSums]:
    """`unit_sums` of the rows of an object, from its footer where it is there.

    Raises:
        MetricsError: it is damaged, or of another origin. ObjectNotFound: it has gone.
    """
    try:
        file = pq.ParquetFile(pa.BufferReader(_footer(store, info)))
        check_schema(file.schema_arrow)
        content = file.metadata.metadata.get(_UNITS_KEY)
        if content is not None:
            return _unpacked(content)
    except (pa.ArrowException, OSError, ValueError, TypeError, zlib.error) as error:
        raise damaged(info.key, first_line(error)) from error
    except MetricsError as error:
        raise damaged(info.key, str(error)) from error
    return unit_sums(read_columns(store, info, SUMMED_FROM))  # it was written before footers told


def _footer(store: Store, info: ObjectInfo) -> bytes:
    """The end of an object, from the begin of the footer or before it."""
    tail = store.get_range(info.key, max(info.size - _TAIL, 0), _TAIL)
    length = int.from_bytes(tail[-8:-4], "little") + 8
    if len(tail) < length <= info.size:
        tail = store.get_range(info.key, info.size - length, length)
    return tail


def read_columns(store: Store, info: ObjectInfo, columns: Sequence[str]) -> pa.Table:
    """Some columns of an object's rows; no other bytes of it are fetched."""
    try:
        return parquet_to_table(pa.PythonFile(ObjectFile.of(store, info), mode="r"), columns)
    except MetricsError as error:
        raise damaged(info.key, str(error)) from error


def damaged(key: str, problem: str) -> MetricsError:
    """The error that tells of a damaged object, and that nothing is lost with it."""
    # True whatever happened to the compacted table, since unit commits are never deleted.
    return MetricsError(
        f"{key}: {problem}; it can be deleted, since every row is still in the unit commits, and `ncbatch "
        "compact` merges them again"
    )
