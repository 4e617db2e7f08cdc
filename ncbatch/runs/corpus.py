"""The inputs of a run: a listing of the corpus, or a manifest."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from ncbatch.errors import UsageError
from ncbatch.runs.objects import read_object
from ncbatch.runs.plan import PlannedImage
from ncbatch.store import Store, StoreOptions

_MANIFEST = pa.schema(
    [
        ("key", pa.string()),
        ("etag", pa.string()),
        ("bytes", pa.int64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
    ]
)

SUFFIXES = frozenset({"png", "jpg", "jpeg", "jpe", "jfif", "webp", "tif", "tiff", "bmp", "gif"})


@dataclass(frozen=True)
class Listing:
    """The images found, in key order, and how many other objects were passed over."""

    images: list[PlannedImage]
    passed_over: int


def _is_picture(key: str) -> bool:
    """By suffix; objects without one count, since stores that name by content have none."""
    suffix = PurePosixPath(key).suffix.lstrip(".").lower()
    return not key.endswith("/") and (suffix in SUFFIXES or not suffix)


def list_corpus(corpus: Store, include: Sequence[str] = ()) -> Listing:
    """Lists a corpus.

    Args:
        include: shell patterns of keys ("*" also crosses "/"); without any, pictures by their suffix.
    """
    images, passed_over = [], 0
    for info in corpus.list():
        wanted = any(fnmatch.fnmatchcase(info.key, p) for p in include) if include else _is_picture(info.key)
        if wanted:
            images.append(PlannedImage(info.key, info.etag, info.size))
        else:
            passed_over += 1
    return Listing(images, passed_over)


def read_manifest(uri: str, corpus: Store, options: StoreOptions) -> Listing:
    """Takes the inputs from a Parquet or CSV table in the place of a listing, in the order of their keys.

    Columns: `key` (relative to the corpus), and optionally `etag`, `bytes`, `width`, `height`. Keys without
    etag or bytes are looked up one by one.

    Raises:
        UsageError: not such a table, or a key that the corpus does not have.
    """
    images = {}
    for row in _manifest_rows(uri, read_object(uri, options)):
        key, etag, size = row["key"], row["etag"], row["bytes"]
        if not key:
            raise UsageError(f"the manifest {uri} has a row without a key; remove it")
        if not etag or size is None:
            info = corpus.head(key)
            if info is None:
                raise UsageError(f"the manifest {uri} names {key!r}, which {corpus.uri} does not have")
            etag, size = info.etag, info.size
        images[key] = PlannedImage(key, etag, size, row["width"], row["height"])
    return Listing(sorted(images.values(), key=lambda image: image.key.encode()), 0)


def _manifest_rows(uri: str, data: bytes) -> list[dict[str, Any]]:
    """The rows of a manifest with all of `_MANIFEST`; columns that it lacks are None."""
    buffer = pa.BufferReader(data)
    try:
        if uri.lower().endswith(".csv"):
            # Typed, or a key "0001" would become the number 1.
            types = pa_csv.ConvertOptions(column_types=_MANIFEST)
            table = pa_csv.read_csv(buffer, convert_options=types)
        else:
            table = pq.read_table(buffer)
    except (pa.ArrowException, OSError) as error:
        raise UsageError(f"the manifest {uri} is neither Parquet nor CSV with a header: {error}") from error
    if "key" not in table.column_names:
        raise UsageError(f"the manifest {uri} has no column `key`; it has {', '.join(table.column_names)}")
    table = table.select([name for name in _MANIFEST.names if name in table.column_names])
    try:
        table = table.cast(pa.schema([_MANIFEST.field(name) for name in table.column_names]))
    except pa.ArrowException as error:
        raise UsageError(f"a column of the manifest {uri} is of the wrong type: {error}") from error
    nothing: dict[str, Any] = dict.fromkeys(_MANIFEST.names)
    return [nothing | row for row in table.to_pylist()]
