import dataclasses
import io
import re
from collections.abc import Callable
from datetime import datetime, timedelta, timezone

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ncbatch.metrics.errors import MetricsError
from ncbatch.metrics.schema import SCHEMA, Row, parquet_to_table, rows_to_parquet

# Written down once more, because the order and the names are a promise to whoever keeps queries.
COLUMNS = """
image_key, image_etag, image_bytes, width, height, variant, variant_digest, model, model_digest, lmbda,
method, steps, seed, status, error_class, error, bpp, information_bpp, bits_y, bits_z, bits_back, mse, psnr,
ms_ssim, rd_loss, amortized_bpp, amortized_psnr, amortized_rd_loss, bitstream_key, offset, length, sha256,
encode_seconds, device_seconds, decode_seconds, batch_size, device, host, unit, attempt, generation, adopted,
started_at, finished_at, ncbatch_version, torch_version, steps_taken, image_sha256,
caption, image_json, target_measure, target_value, target_came, target_met, target_tries,
dropped, tail_bytes, worker_log
"""
NEVER_NULL = {
    "image_key",
    "image_etag",
    "image_bytes",
    "variant",
    "variant_digest",
    "status",
    "unit",
    "attempt",
    "generation",
    "adopted",
}


def test_columns_are_all_there_in_order() -> None:
    assert SCHEMA.names == [name.strip() for name in COLUMNS.replace("\n", " ").split(",")]
    assert SCHEMA.names == [field.name for field in dataclasses.fields(Row)]
    assert {field.name for field in SCHEMA if not field.nullable} == NEVER_NULL
    assert SCHEMA.metadata == {b"ncbatch.schema": b"4"}
    assert SCHEMA.field("adopted").type == pa.bool_()
    assert SCHEMA.field("image_bytes").type == pa.int64()
    assert SCHEMA.field("device_seconds").type == pa.float64()
    assert SCHEMA.field("attempt").type == pa.string()
    assert SCHEMA.field("started_at").type == pa.timestamp("us", tz="UTC")


def test_rows_come_back_as_they_were(make_row: Callable[..., Row]) -> None:
    rows = [
        make_row(
            "sp ace+%25ü.png", finished_at=datetime(2026, 5, 1, 14, tzinfo=timezone(timedelta(hours=2)))
        ),
        make_row("b.png", status="failed", error_class="truncated", error="cut", bpp=None, width=None),
        make_row("c.png", psnr=float("inf"), image_bytes=2**40),
    ]
    table = parquet_to_table(rows_to_parquet(rows))
    assert table.schema.equals(SCHEMA, check_metadata=True)
    assert [Row(**row) for row in table.to_pylist()] == rows
    assert (
        pq.ParquetFile(io.BytesIO(rows_to_parquet(rows))).metadata.row_group(0).column(0).compression
        == "ZSTD"
    )


def test_no_rows_and_many_rows(make_row: Callable[..., Row]) -> None:
    assert len(parquet_to_table(rows_to_parquet([]))) == 0
    assert len(parquet_to_table(rows_to_parquet([make_row(f"{n}.png") for n in range(1000)]))) == 1000


def test_rows_of_an_earlier_version_have_null_in_later_columns(make_row: Callable[..., Row]) -> None:
    now = parquet_to_table(rows_to_parquet([make_row(steps_taken=7), make_row("b.png")]))
    later = ["steps_taken", "image_sha256", "caption", "image_json", "dropped", "tail_bytes", "worker_log"]
    later += [name for name in SCHEMA.names if name.startswith("target_")]
    then = now.drop_columns(later).replace_schema_metadata({b"ncbatch.schema": b"1"})
    read = parquet_to_table(parquet(then))
    assert read.schema.equals(SCHEMA, check_metadata=True)
    assert read["steps_taken"].to_pylist() == [None, None]
    assert read.drop_columns(later).equals(now.drop_columns(later))
    some = parquet_to_table(parquet(then), columns=["steps_taken", "image_key"])
    assert some.to_pylist()[1] == {"steps_taken": None, "image_key": "b.png"}


def test_some_columns_only(make_row: Callable[..., Row]) -> None:
    table = parquet_to_table(rows_to_parquet([make_row()]), columns=["psnr", "image_key"])
    assert table.to_pylist() == [{"psnr": 32.0, "image_key": "a.png"}]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"status": "done"}, "must be 'ok' or 'failed'"),
        ({"status": "failed"}, "error_class"),
        ({"error_class": "truncated"}, "error_class"),
        ({"variant": None}, "lacks variant"),
        ({"started_at": datetime(2026, 5, 1)}, "time zone"),
        ({"bpp": "half"}, "does not fit"),
        ({"image_bytes": 2**70}, "does not fit"),
    ],
)
def test_rows_that_do_not_fit(make_row: Callable[..., Row], values: dict[str, object], message: str) -> None:
    with pytest.raises(MetricsError, match=message):
        rows_to_parquet([make_row(**values)])


def parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no whole Parquet file"),
        (b"not Parquet at all", "no whole Parquet file"),
        (rows_to_parquet([])[:-9], "no whole Parquet file"),
        (parquet(pa.table({"image_key": ["a"]})), "not written by ncbatch"),
        (
            parquet(SCHEMA.with_metadata({b"ncbatch.schema": b"5"}).empty_table()),
            "version 5.*upgrade ncbatch",
        ),
        (parquet(pa.schema([SCHEMA.field(0)], SCHEMA.metadata).empty_table()), "columns are not those"),
    ],
    ids=["empty", "text", "truncated", "foreign", "newer", "other columns"],
)
def test_other_files(data: bytes, message: str) -> None:
    with pytest.raises(MetricsError, match=message) as caught:
        parquet_to_table(data)
    assert re.fullmatch(r"[^\n]+[^.\n]", str(caught.value))
