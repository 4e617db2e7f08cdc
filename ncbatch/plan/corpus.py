"""The inputs of a run: a listing of the corpus, or a manifest."""

from __future__ import annotations

import fnmatch
import itertools
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from ncbatch import layout
from ncbatch.errors import UsageError
from ncbatch.metrics.parallel import in_parallel
from ncbatch.plan.image_table import ImageTable, ImageTableWriter, columns_of, joined
from ncbatch.plan.place import is_shard
from ncbatch.plan.shards import Shards
from ncbatch.plan.spec import holds_run
from ncbatch.plan.units import PlannedImage
from ncbatch.store import KeyRange, ObjectInfo, Store, StoreError, StoreOptions, prefix_of
from ncbatch.store.objects import read_object
from ncbatch.words import counted

log = logging.getLogger(__name__)

_SHOWN = 5
_BATCH_ROWS = 10_000
_PAGE = 1000
"""Objects that are looked at together, the shards among them side by side."""
_LISTINGS = 32
"""Of a corpus, side by side."""

_MANIFEST = pa.schema(
    [
        # All keys of a manifest together may be more than 2 GiB, and so may all etags.
        ("key", pa.large_string()),
        ("etag", pa.large_string()),
        ("bytes", pa.int64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
    ]
)

SUFFIXES = frozenset(
    {
        *("png", "jpg", "jpeg", "jpe", "jfif", "webp", "tif", "tiff", "bmp", "gif"),
        *("avif", "avifs", "heic", "heif", "hif", "jp2", "jpx", "jpf", "j2k", "j2c", "jxl"),
    }
)


@dataclass(frozen=True)
class Listing:
    """The images found, in key order, and what was left out.

    passed_over: objects that are not images by their names, or excluded.
    runs: how many objects lie in the folder of each run.
    closed: folders that the operating system does not let us list.
    """

    images: Sequence[PlannedImage]
    passed_over: int = 0
    runs: dict[str, int] = field(default_factory=dict)
    closed: tuple[str, ...] = ()

    def notes(self) -> Iterator[str]:
        """What was left out, in sentences."""
        if self.passed_over:
            are = "is excluded, is no image by its name, or holds none"
            if self.passed_over > 1:
                are = "are excluded, are no images by their names, or hold none"
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
    name = key.rpartition("/")[2]
    dot = name.rfind(".")
    # As pathlib sees it, in a tenth of its time: a name that begins or ends with its only dot has none.
    return bool(name) and (not 0 < dot < len(name) - 1 or name[dot + 1 :].lower() in SUFFIXES)


def list_corpus(
    corpus: Store,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    output: Store | None = None,
    shards: Shards | None = None,
) -> Listing:
    """Lists a corpus.

    What lies in the folder of a run is no input, or a second run would encode what a first one wrote: below a
    `run.json`, and in `output`, where it is yet to be written.

    Args:
        include: shell patterns of keys ("*" also crosses "/"); without any, images by their suffix.
        exclude: patterns of keys that are left out all the same.
        output: of the run that the listing is for.
        shards: reads tars and Parquet files, whose images are listed in their place; None: they are objects
            like any.
    """
    inside = prefix_of(output, corpus) if output is not None else None
    ranges = corpus.ranges(_LISTINGS)
    asked = _Asked(include, exclude, inside, shards, max(_LISTINGS // len(ranges), 1))
    parts = in_parallel(lambda within: _listed(corpus, within, asked), ranges, _LISTINGS)
    runs, closed, passed_over = set[str]() if inside is None else {inside}, list[str](), 0
    tables = []
    for part in parts:
        tables.append(part.objects)
        runs |= part.runs
        closed += part.closed
        passed_over += part.passed_over
    found = tables[0] if len(tables) == 1 else joined(tables)
    if not runs and not passed_over:
        return Listing(found, closed=tuple(closed))
    return _without_others(found, runs, tuple(closed))


@dataclass(frozen=True)
class _Listed:
    """What one range of keys holds; what has no size is no image. runs: folders of runs; others: as of
    `Listing`.
    """

    objects: ImageTable
    runs: Set[str]
    closed: Sequence[str]
    passed_over: int


@dataclass(frozen=True)
class _Asked:
    """What is wanted of a corpus. inside: the output's folder; threads: that read shards; others: as of
    `list_corpus`.
    """

    include: Sequence[str]
    exclude: Sequence[str]
    inside: str | None
    shards: Shards | None
    threads: int

    def takes(self, key: str) -> bool:
        """Whether an object is an image."""
        wanted = _matches(key, self.include) if self.include else _is_image(key)
        return wanted and not _matches(key, self.exclude)

    def opens(self, key: str, runs: Set[str]) -> bool:
        """Whether the object is a shard whose images are wanted, and belongs to no run that is known."""
        if self.shards is None or not is_shard(key) or _matches(key, self.exclude):
            return False
        if (self.inside and key.startswith(self.inside)) or _run_of(key, runs) is not None:
            return False
        return not self.include or any(_reaches_into(pattern, key) for pattern in self.include)

    def images(self, info: ObjectInfo) -> pa.RecordBatch:
        """The images of a shard."""
        assert self.shards is not None
        whole = not self.include or _matches(info.key, self.include)

        def taken(key: str) -> bool:
            wanted = whole or key == info.key or _matches(key, self.include)
            return wanted and not _matches(key, self.exclude)

        return columns_of(image for image in self.shards.images(info) if taken(image.key))


def _reaches_into(pattern: str, shard: str) -> bool:
    """Whether a pattern may match a shard's images: by what it begins with, up to its first wildcard."""
    start = re.split(r"[*?[]", pattern, maxsplit=1)[0]
    folder = f"{shard}/"
    return fnmatch.fnmatchcase(shard, pattern) or folder.startswith(start) or start.startswith(folder)


def _listed(corpus: Store, within: KeyRange, asked: _Asked) -> _Listed:
    runs, closed = set[str](), list[str]()

    def unreadable(folder: str, error: StoreError) -> None:
        if not _matches(folder, asked.exclude):
            log.warning("left out: %s", error)
            closed.append(folder)

    objects = ImageTableWriter()
    passed_over = 0
    listed = corpus.list(within=within, unreadable=unreadable)
    while page := list(itertools.islice(listed, _PAGE)):
        shards = [info for info in page if asked.opens(info.key, runs)]
        inside = in_parallel(asked.images, shards, asked.threads)
        opened = {info.key for info in shards}
        for info in page:
            folder, slash, name = info.key.rpartition("/")
            if name == layout.RUN and holds_run(corpus, info.key):
                runs.add(folder + slash)
            if info.key in opened and len(images := next(inside)):
                objects.add_batch(images)
                continue
            taken = info.key not in opened and asked.takes(info.key)
            passed_over += not taken
            objects.add(info.key, info.etag, info.size if taken else None)
    return _Listed(objects.finish(), runs, closed, passed_over)


def _without_others(objects: ImageTable, runs: Set[str], closed: tuple[str, ...]) -> Listing:
    """Of what was listed, the images that do not belong to runs; what has no size is no image."""
    images, passed_over = ImageTableWriter(), 0
    left_out: Counter[str] = Counter()
    for batch in objects.batches():
        if runs:
            folders = [_run_of(key, runs) for key in batch.column("image_key").to_pylist()]
            left_out.update(folder for folder in folders if folder is not None)
            batch = batch.filter(pa.array([folder is None for folder in folders]))
        taken = batch.filter(pc.is_valid(batch.column("image_bytes")))
        passed_over += len(batch) - len(taken)
        images.add_batch(taken)
    return Listing(images.finish(), passed_over, dict(left_out), closed)


def _matches(key: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(key, pattern) for pattern in patterns)


def _run_of(key: str, runs: Set[str]) -> str | None:
    """The outermost of the folders that the key is in."""
    folders = ("", *(key[: match.end()] for match in re.finditer("/", key))) if runs else ()
    return next((folder for folder in folders if folder in runs), None)


def read_manifest(
    uri: str, corpus: Store, options: StoreOptions, known: Callable[[pa.Table], pa.Table] = lambda rows: rows
) -> Listing:
    """Takes the inputs from a Parquet or CSV table in the place of a listing, in the order of their keys.

    Columns: `key` (relative to the corpus), and optionally `etag`, `bytes`, `width`, `height`. Keys without
    etag or bytes are looked up, several at a time.

    Args:
        uri: of the table.
        corpus: that has the keys.
        options: how to reach an S3 server.
        known: fills in what is known of rows without etag or bytes, which are not looked up then.

    Raises:
        UsageError: not such a table, or a key that the corpus does not have.
    """
    images = ImageTableWriter()
    for batch in known(_manifest_rows(uri, read_object(uri, options))).to_batches(_BATCH_ROWS):
        rows = list(zip(*(column.to_pylist() for column in batch.columns), strict=True))
        unknown = [row[0] for row in rows if not row[1] or row[2] is None]
        heads = dict(zip(unknown, in_parallel(corpus.head, unknown), strict=True))
        for key, etag, size, width, height in rows:
            if key in heads:
                info = heads[key]
                if info is None:
                    raise UsageError(f"the manifest {uri} names {key!r}, which {corpus.uri} does not have")
                etag, size = info.etag, info.size
            images.add(key, etag, size, width, height)
    return Listing(images.finish())


def _manifest_rows(uri: str, data: bytes) -> pa.Table:
    """The rows of a manifest with all of `_MANIFEST`, in the order of their keys, each key once: its last row
    counts. Columns that it lacks are null.
    """
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
    for column in _MANIFEST:
        if column.name not in table.column_names:
            table = table.append_column(column, pa.nulls(len(table), column.type))
    table = table.select(_MANIFEST.names)
    if pc.any(pc.equal(pc.coalesce(table["key"], ""), "")).as_py():
        raise UsageError(f"the manifest {uri} has a row without a key; remove it")
    return _last_of_each(table)


def _last_of_each(table: pa.Table) -> pa.Table:
    places = table.append_column("place", pa.array(range(len(table)), pa.int64()))
    order = pc.sort_indices(places, sort_keys=[("key", "ascending"), ("place", "ascending")])
    table = table.take(order)
    keys = table["key"].combine_chunks()
    if len(keys) < 2:
        return table
    last = pc.not_equal(keys[:-1], keys[1:]).to_pylist()
    return table.filter(pa.array([*last, True]))
