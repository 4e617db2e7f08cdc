"""The columns of the metrics table, and its rows as Parquet bytes."""

from __future__ import annotations

import io
import types
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, get_args, get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq

from ncbatch.errors import first_line
from ncbatch.metrics.errors import MetricsError

SCHEMA_VERSION = 1
VERSION_KEY = b"ncbatch.schema"

_DICTIONARY_ROWS = 32


@dataclass(kw_only=True)
class Row:
    """One image's final outcome under one variant. The fields are the columns of the table, in its order.

    Fields without a default are never null; the others are null where a failed row has nothing to say.
    """

    image_key: str
    image_etag: str
    image_bytes: int
    width: int | None = None  # pixels, after the EXIF orientation
    height: int | None = None
    variant: str
    variant_digest: str
    model: str | None = None
    model_digest: str | None = None
    lmbda: float | None = None
    method: str | None = None
    steps: int | None = None
    seed: int | None = None
    status: str  # "ok" or "failed"
    error_class: str | None = None
    error: str | None = None
    bpp: float | None = None  # bytes written * 8 / pixels; in a pack, bytes that it is longer for the image
    information_bpp: float | None = None  # -log2 p of what was written / pixels
    bits_y: float | None = None
    bits_z: float | None = None
    bits_back: float | None = None
    mse: float | None = None  # on 0..255
    psnr: float | None = None  # dB
    ms_ssim: float | None = None
    rd_loss: float | None = None  # bits/pixel + lmbda * mse
    amortized_bpp: float | None = None
    amortized_psnr: float | None = None
    amortized_rd_loss: float | None = None
    bitstream_key: str | None = None
    offset: int | None = None  # bytes, inside the object
    length: int | None = None  # bytes
    sha256: str | None = None
    encode_seconds: float | None = None
    device_seconds: float | None = None
    decode_seconds: float | None = None
    batch_size: int | None = None
    device: str | None = None
    host: str | None = None
    unit: str
    attempt: str
    generation: int
    adopted: bool
    started_at: datetime | None = None  # with a time zone
    finished_at: datetime | None = None
    ncbatch_version: str | None = None
    torch_version: str | None = None


_ARROW_TYPES: dict[type, pa.DataType] = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
    datetime: pa.timestamp("us", tz="UTC"),
}


def _arrow_field(name: str, hint: Any) -> pa.Field:
    nullable = isinstance(hint, types.UnionType)
    return pa.field(name, _ARROW_TYPES[get_args(hint)[0] if nullable else hint], nullable=nullable)


SCHEMA = pa.schema(
    [_arrow_field(name, hint) for name, hint in get_type_hints(Row).items()],
    metadata={VERSION_KEY: str(SCHEMA_VERSION).encode()},
)


def rows_to_parquet(rows: Sequence[Row]) -> bytes:
    """The rows as one Parquet file with exactly the columns of SCHEMA.

    Raises:
        MetricsError: a row does not fit.
    """
    for row in rows:
        _check_row(row)
    names = [field.name for field in fields(Row)]
    try:
        columns = [pa.array([getattr(row, name) for row in rows], SCHEMA.field(name).type) for name in names]
    except (pa.ArrowException, OverflowError, TypeError) as error:
        raise MetricsError(
            f"A row does not fit the metrics table ({error}); check the types of its fields."
        ) from error
    return table_to_parquet(pa.Table.from_arrays(columns, schema=SCHEMA))


def table_to_parquet(table: pa.Table, row_group_rows: int = 128 * 1024) -> bytes:
    """A table with SCHEMA as one Parquet file. Built in memory: a store gets whole objects or none."""
    buffer = io.BytesIO()
    # A dictionary costs more than it saves in a unit's few rows, in time as in bytes.
    pq.write_table(
        table,
        buffer,
        compression="zstd",
        row_group_size=row_group_rows,
        use_dictionary=len(table) > _DICTIONARY_ROWS,
        write_page_checksum=True,
    )
    return buffer.getvalue()


def parquet_to_table(source: bytes | pa.NativeFile, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of a Parquet file that `rows_to_parquet` or `compact` made.

    Args:
        source: the file.
        columns: names of the columns wanted, in their order; by default all of them.

    Raises:
        MetricsError: the file is of another origin or of a newer version, or it is damaged.
    """
    try:
        if isinstance(source, bytes):
            source = pa.BufferReader(source)
        file = pq.ParquetFile(source, page_checksum_verification=True)
        _check_schema(file.schema_arrow)
        # Unit commits are many and small: threads inside each would cost more than they give.
        table = file.read(columns=None if columns is None else list(columns), use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise MetricsError(
            f"This is no whole Parquet file ({first_line(error)}); restore or delete it."
        ) from error
    return table if columns is None else table.select(list(columns))


def _check_row(row: Row) -> None:
    where = f"The row of {row.image_key!r} ({row.variant!r})"
    if row.status not in ("ok", "failed"):
        raise MetricsError(f"{where} has the status {row.status!r}; it must be 'ok' or 'failed'.")
    if (row.status == "failed") != bool(row.error_class):
        raise MetricsError(f"{where} is {row.status!r}; exactly the failed rows must have an error_class.")
    for field in SCHEMA:
        value = getattr(row, field.name)
        if value is None and not field.nullable:
            raise MetricsError(f"{where} lacks {field.name}; give it a value.")
        if isinstance(value, datetime) and value.tzinfo is None:
            raise MetricsError(
                f"{where} has a {field.name} without a time zone; use datetime.now(timezone.utc)."
            )


def _check_schema(schema: pa.Schema) -> None:
    version = (schema.metadata or {}).get(VERSION_KEY, b"").decode(errors="replace")
    if not version.isdecimal():
        raise MetricsError("This Parquet file was not written by ncbatch; move it out of the run's folder.")
    if int(version) > SCHEMA_VERSION:
        raise MetricsError(
            f"These rows have schema version {version} and this ncbatch reads up to {SCHEMA_VERSION}; "
            "upgrade ncbatch."
        )
    if not schema.equals(SCHEMA):
        raise MetricsError(
            "The columns are not those of an ncbatch metrics table; restore or delete the file."
        )
