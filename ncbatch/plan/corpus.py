"""The inputs of a run: a listing of the corpus, or a manifest."""

from __future__ import annotations

import fnmatch
import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from ncbatch import layout
from ncbatch.errors import UsageError
from ncbatch.plan.spec import holds_run
from ncbatch.plan.units import PlannedImage
from ncbatch.store import Store, StoreError, StoreOptions, prefix_of
from ncbatch.store.objects import read_object
from ncbatch.words import counted

log = logging.getLogger(__name__)

_SHOWN = 5

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
    """The images found, in key order, and what was left out.

    passed_over: objects that are not images by their names, or excluded.
    runs: how many objects lie in the folder of each run.
    closed: folders that the operating system does not let us list.
    """

    images: list[PlannedImage]
    passed_over: int = 0
    runs: dict[str, int] = field(default_factory=dict)
    closed: tuple[str, ...] = ()

    def notes(self) -> Iterator[str]:
        """What was left out, in sentences."""
        if self.passed_over:
            are = "is excluded, or not an image by its name"
            if self.passed_over > 1:
                are = "are excluded, or not images by their names"
            yield f"passed over {counted(self.passed_over, 'objects')} that {are}"
        if self.runs:
            folders = _some([folder or "./" for folder in self.runs])
            total = sum(self.runs.values())
            belong = "belongs" if total == 1 else "belong"
            yield f"left out {counted(total, 'objects')} that {belong} to runs, in {folders}"
        if self.closed:
            yield f"left out {counted(len(self.closed), 'folders')} that cannot be read: {_some(self.closed)}"


def _some(words: Sequence[str]) -> str:
    shown = ", ".join(words[:_SHOWN])
    return shown if len(words) <= _SHOWN else f"{shown} and {len(words) - _SHOWN} more"


def _is_image(key: str) -> bool:
    """By suffix; objects without one count, since stores that name by content have none."""
    suffix = PurePosixPath(key).suffix.lstrip(".").lower()
    return not key.endswith("/") and (suffix in SUFFIXES or not suffix)


def list_corpus(
    corpus: Store, include: Sequence[str] = (), exclude: Sequence[str] = (), output: Store | None = None
) -> Listing:
    """Lists a corpus.

    What lies in the folder of a run is no input, or a second run would encode what a first one wrote: below a
    `run.json`, and in `output`, where it is yet to be written.

    Args:
        include: shell patterns of keys ("*" also crosses "/"); without any, images by their suffix.
        exclude: patterns of keys that are left out all the same.
        output: of the run that the listing is for.
    """
    runs, closed = set(), []
    if output is not None and (inside := prefix_of(output, corpus)) is not None:
        runs.add(inside)

    def unreadable(folder: str, error: StoreError) -> None:
        if not _matches(folder, exclude):
            log.warning("left out: %s", error)
            closed.append(folder)

    objects = []
    for info in corpus.list(unreadable=unreadable):
        folder, slash, name = info.key.rpartition("/")
        if name == layout.RUN and holds_run(corpus, info.key):
            runs.add(folder + slash)
        wanted = _matches(info.key, include) if include else _is_image(info.key)
        taken = wanted and not _matches(info.key, exclude)
        objects.append((info.key, PlannedImage(info.key, info.etag, info.size) if taken else None))
    left_out = Counter(run for key, _ in objects if (run := _run_of(key, runs)) is not None)
    inputs = [image for key, image in objects if _run_of(key, runs) is None]
    images = [image for image in inputs if image is not None]
    return Listing(images, len(inputs) - len(images), dict(left_out), tuple(closed))


def _matches(key: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(key, pattern) for pattern in patterns)


def _run_of(key: str, runs: Set[str]) -> str | None:
    """The outermost of the folders that the key is in."""
    folders = ("", *(key[: match.end()] for match in re.finditer("/", key))) if runs else ()
    return next((folder for folder in folders if folder in runs), None)


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
    return Listing(sorted(images.values(), key=lambda image: image.key.encode()))


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
