"""The images in a Parquet file, as its footer tells."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

_NAMES = ("image", "img", "jpg", "jpeg", "png", "webp", "image_bytes", "bytes")
"""Of columns of plain bytes that hold images."""

_ROW_DIGITS = 8


@dataclass(frozen=True)
class ParquetImage:
    """An image in a row of a Parquet file.

    Attributes:
        name: its row's number in the file.
        column: that holds it.
        group: its row group's number.
        row: counted within its group.
        length: bytes of an image of that group on average.
    """

    name: str
    column: str
    group: int
    row: int
    length: int


def image_column(schema: pa.Schema) -> str | None:
    """The column that holds images: `struct<bytes, path>`, as Hugging Face writes it, or bytes that are
    called like an image; None where there is none.
    """
    structs = [field.name for field in schema if _is_struct_of_bytes(field.type)]
    plain = [name for name in _NAMES if name in schema.names and _is_bytes(schema.field(name).type)]
    if "image" in structs:
        return "image"
    return next(iter([*structs, *plain]), None)


def _is_struct_of_bytes(kind: pa.DataType) -> bool:
    fields = {field.name: field.type for field in kind} if pa.types.is_struct(kind) else {}
    return "bytes" in fields and _is_bytes(fields["bytes"])


def _is_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def images_in_parquet(metadata: pq.FileMetaData) -> Iterator[ParquetImage]:
    """The images of a file, given its footer; nothing where it has no column of images."""
    column = image_column(metadata.schema.to_arrow_schema())
    if column is None:
        return
    number = 0
    for group in range(metadata.num_row_groups):
        about = metadata.row_group(group)
        sizes = (about.column(n) for n in range(about.num_columns))
        held = sum(
            chunk.total_uncompressed_size
            for chunk in sizes
            if chunk.path_in_schema in (column, f"{column}.bytes")
        )
        length = held // max(about.num_rows, 1)
        for row in range(about.num_rows):
            yield ParquetImage(f"{number:0{_ROW_DIGITS}d}", column, group, row, length)
            number += 1
