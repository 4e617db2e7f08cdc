"""The columns of the metrics table, and its rows as Parquet bytes."""

from __future__ import annotations

import io
import types
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Annotated, Any, get_args, get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq

from ncbatch.errors import first_line
from ncbatch.metrics.errors import MetricsError

SCHEMA_VERSION = 4
VERSION_KEY = b"ncbatch.schema"

_SINCE = {
    "steps_taken": 2, "image_sha256": 3, "caption": 4, "image_json": 4, "target_measure": 4,
    "target_value": 4, "target_came": 4, "target_met": 4, "target_tries": 4, "dropped": 4, "tail_bytes": 4,
    "worker_log": 4,
}  # fmt: skip
"""The version of columns that came later; rows of earlier versions have null there."""

_DICTIONARY_ROWS = 32
_ROW_GROUP_ROWS = 128 * 1024


@dataclass(kw_only=True)
class Row:
    """One image's final outcome under one variant. The fields are the columns of the table, in its order.

    Each field says what it holds, for the reference in the docs. Fields without a default are never null; the
    others are null where a failed row has nothing to say.
    """

    image_key: Annotated[str, "key of the image below the corpus, as it was listed"]
    image_etag: Annotated[
        str,
        "etag of the input when the run was planned; an image whose etag is another one counts as changed, "
        "unless its bytes are the same",
    ]
    image_bytes: Annotated[int, "size of the input in bytes"]
    width: Annotated[int | None, "pixels, after the orientation that the file states"] = None
    height: Annotated[int | None, "pixels, after the orientation that the file states"] = None
    variant: Annotated[str, "name of the encoding recipe"]
    variant_digest: Annotated[str, "SHA-256 of the recipe: model, method and all hyper-parameters"]
    model: Annotated[str | None, "name of the model; null for classical codecs"] = None
    model_digest: Annotated[str | None, "SHA-256 of the checkpoint; null for classical codecs"] = None
    lmbda: Annotated[
        float | None,
        "weight of the MSE in the R-D loss; with a target, the one that was found; null for classical codecs",
    ] = None
    method: Annotated[
        str | None,
        "how the latents were found, or the classical codec; amortized where a variant fell back to it",
    ] = None
    steps: Annotated[int | None, "steps of refinement; 0 for methods that do not refine"] = None
    seed: Annotated[int | None, "seed of the noise in refinement"] = None
    status: Annotated[str, "ok or failed"]
    error_class: Annotated[
        str | None, "class of the failure, for grouping; null exactly where the status is ok"
    ] = None
    error: Annotated[
        str | None, "message of the failure; in an ok row, a note on what happened on the way"
    ] = None
    bpp: Annotated[
        float | None,
        "bytes written * 8 / pixels; in a pack, the bytes by which the pack is longer for this image",
    ] = None
    information_bpp: Annotated[
        float | None, "information content (-log2 p) of what was written / pixels, bits got back deducted"
    ] = None
    bits_y: Annotated[float | None, "information content of the latents y, in bits"] = None
    bits_z: Annotated[float | None, "information content of the hyper-latents z, in bits"] = None
    bits_back: Annotated[
        float | None, "bits got back by bits-back coding; null where an image was coded without it"
    ] = None
    mse: Annotated[float | None, "mean squared error over the true pixels, on 0..255"] = None
    psnr: Annotated[float | None, "PSNR in dB, of that MSE"] = None
    ms_ssim: Annotated[float | None, "MS-SSIM; null where the image is too small for it"] = None
    rd_loss: Annotated[
        float | None,
        "bits per pixel + lmbda * mse; under another --distortion, that in the place of mse",
    ] = None
    amortized_bpp: Annotated[
        float | None,
        "bpp of the encoder network's encoding, without refinement; where it is not what was written, its "
        "information content in whole 32-bit words, with header and checksum",
    ] = None
    amortized_psnr: Annotated[float | None, "PSNR in dB of that encoding"] = None
    amortized_rd_loss: Annotated[
        float | None, "amortized_bpp + lmbda * distortion of that encoding, as in rd_loss"
    ] = None
    bitstream_key: Annotated[
        str | None, "key of the object that holds the bitstream, below the run's output"
    ] = None
    offset: Annotated[
        int | None, "where the image's bytes begin in that object; 0 except in packs and tars"
    ] = None
    length: Annotated[int | None, "how many bytes of it are the image's"] = None
    sha256: Annotated[str | None, "SHA-256 of these bytes, in hexadecimal digits"] = None
    encode_seconds: Annotated[
        float | None,
        "wall time of the encoding, of the whole batch where images were refined together; null if adopted",
    ] = None
    device_seconds: Annotated[
        float | None,
        "this image's share of the device's time: of the encoding without coding, decode check and measures, "
        "beside which the device computes the next images; null if adopted",
    ] = None
    decode_seconds: Annotated[float | None, "time of the decode check"] = None
    batch_size: Annotated[int | None, "images that were refined together"] = None
    device: Annotated[str | None, "the device that computed it: cpu or cuda"] = None
    host: Annotated[str | None, "name of the machine"] = None
    unit: Annotated[str, "unit of work that the image belongs to"]
    attempt: Annotated[str, "execution of the unit that committed this row"]
    generation: Annotated[
        int, "0 for the first plan; higher for images added, changed, retried or repaired later"
    ]
    adopted: Annotated[
        bool, "whether the bitstream was found, left by an earlier attempt, instead of encoded"
    ]
    started_at: Annotated[datetime | None, "when work on the image began, UTC"] = None
    finished_at: Annotated[datetime | None, "when the row was made, UTC"] = None
    ncbatch_version: Annotated[str | None, "version of ncbatch that wrote the row"] = None
    torch_version: Annotated[str | None, "version of PyTorch that computed"] = None
    steps_taken: Annotated[
        int | None,
        "steps of refinement that the image took: fewer than `steps` where it had converged; null if "
        "adopted, and in rows of earlier versions",
    ] = None
    image_sha256: Annotated[
        str | None,
        "SHA-256 of the input's bytes, in hexadecimal digits; null where they could not be read, and in rows "
        "of earlier versions",
    ] = None
    caption: Annotated[
        str | None,
        "what stands beside an image in its shard as text: the member of its sample with the suffix txt, or "
        "the column of that name, `caption` or `text`",
    ] = None
    image_json: Annotated[
        str | None,
        "what else stands there, as a JSON object: the fields of the sample's json, its other small members "
        "by suffix, or the other columns of numbers and text",
    ] = None
    target_measure: Annotated[
        str | None,
        "what the variant asks for in the place of lmbda: psnr, bpp, bytes or ssim; null without a target, "
        "and in rows of earlier versions, as in the next four",
    ] = None
    target_value: Annotated[
        float | None,
        "how much of it: dB, bits per pixel, bytes, or MS-SSIM, plain below 1 and in dB from 1 on",
    ] = None
    target_came: Annotated[float | None, "what came, in the same unit"] = None
    target_met: Annotated[
        bool | None,
        "whether what came is within 1 % of the rate or 0.05 dB; where it is not, it is the nearest that was "
        "found, and `error` says so",
    ] = None
    target_tries: Annotated[
        int | None, "how many values of lmbda were tried; null if adopted, as are lmbda and rd_loss then"
    ] = None
    dropped: Annotated[
        str | None,
        "what else the input holds and is not in the bitstream, in words separated by commas, such as `exif, "
        "gain map, 2 frames, 16 to 8 bits`; null where that is nothing, and in rows of earlier versions",
    ] = None
    tail_bytes: Annotated[
        int | None,
        "how many of the image's bytes are its tail: colour profile, EXIF and XMP; bpp and rd_loss count "
        "them, amortized_bpp and amortized_rd_loss as well; null in rows of earlier versions",
    ] = None
    worker_log: Annotated[
        str | None,
        "path of the worker's log on that host; null where its messages go to no file of their own, and in "
        "rows of earlier versions",
    ] = None


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


def column_descriptions() -> dict[str, str]:
    """What each column holds, in the order of the table."""
    hints = get_type_hints(Row, include_extras=True)
    return {name: hint.__metadata__[0] for name, hint in hints.items()}


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
            f"a row does not fit the metrics table ({error}); check the types of its fields"
        ) from error
    return table_to_parquet(pa.Table.from_arrays(columns, schema=SCHEMA))


def table_to_parquet(table: pa.Table) -> bytes:
    """A table with SCHEMA as one Parquet file. Built in memory: a store gets whole objects or none."""
    buffer = io.BytesIO()
    # A dictionary costs more than it saves in a unit's few rows, in time as in bytes.
    pq.write_table(
        table,
        buffer,
        compression="zstd",
        row_group_size=_ROW_GROUP_ROWS,
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
        check_schema(file.schema_arrow)
        wanted = SCHEMA.names if columns is None else list(columns)
        # Unit commits are many and small: threads inside each would cost more than they give.
        table = file.read(columns=[n for n in wanted if n in file.schema_arrow.names], use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise MetricsError(
            f"this is no whole Parquet file ({first_line(error)}); restore or delete it"
        ) from error
    for name in wanted:
        if name not in table.column_names:
            field = SCHEMA.field(name)
            table = table.append_column(field, pa.nulls(len(table), field.type))
    return table.select(wanted).replace_schema_metadata(SCHEMA.metadata)


def _check_row(row: Row) -> None:
    where = f"the row of {row.image_key!r} ({row.variant!r})"
    if row.status not in ("ok", "failed"):
        raise MetricsError(f"{where} has the status {row.status!r}; it must be 'ok' or 'failed'")
    if (row.status == "failed") != bool(row.error_class):
        raise MetricsError(f"{where} is {row.status!r}; exactly the failed rows must have an error_class")
    for field in SCHEMA:
        value = getattr(row, field.name)
        if value is None and not field.nullable:
            raise MetricsError(f"{where} lacks {field.name}; give it a value")
        if isinstance(value, datetime) and value.tzinfo is None:
            raise MetricsError(
                f"{where} has a {field.name} without a time zone; use datetime.now(timezone.utc)"
            )


def check_schema(schema: pa.Schema) -> None:
    """Checks that a file has the columns of the table, or had them in an earlier version.

    Raises:
        MetricsError: it is of another origin or of a newer version.
    """
    version = (schema.metadata or {}).get(VERSION_KEY, b"").decode(errors="replace")
    if not version.isdecimal():
        raise MetricsError("this Parquet file was not written by ncbatch; move it out of the run's folder")
    if int(version) > SCHEMA_VERSION:
        raise MetricsError(
            f"these rows have schema version {version} and this ncbatch reads up to {SCHEMA_VERSION}; "
            "upgrade ncbatch"
        )
    then = pa.schema([field for field in SCHEMA if _SINCE.get(field.name, 1) <= int(version)])
    if not schema.equals(then):
        raise MetricsError(
            "the columns are not those of an ncbatch metrics table; restore or delete the file"
        )
