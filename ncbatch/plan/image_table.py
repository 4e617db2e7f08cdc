"""Many images as columns in a temporary file, so that a corpus of any size is planned in little memory."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from operator import eq
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from typing_extensions import override

from ncbatch.plan.columns import booleans, integers, whole
from ncbatch.plan.units import BYTES_PER_PIXEL, GUESSES, USUAL_BYTES_PER_PIXEL, PlannedImage

_BATCH_ROWS = 10_000

COLUMNS = pa.schema(
    [
        ("image_key", pa.string()),
        ("image_etag", pa.string()),
        ("image_bytes", pa.int64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("place", pa.string()),
    ]
)
"""Of a batch of images; a plan's files have them, too."""


def planned_images(columns: pa.RecordBatch | pa.Table) -> Iterator[PlannedImage]:
    """The images of a batch that has COLUMNS."""
    return map(PlannedImage, *(columns.column(name).to_pylist() for name in COLUMNS.names))


def pixels_of(columns: pa.RecordBatch | pa.Table) -> np.ndarray:
    """`PlannedImage.pixels` of each image of a batch that has COLUMNS; int64[images]."""
    exact = integers(columns.column("width")) * integers(columns.column("height"))
    if (exact > 0).all():
        return exact
    keys = whole(columns.column("image_key"))
    bytes_per_pixel = np.full(len(exact), USUAL_BYTES_PER_PIXEL)
    for each in set(BYTES_PER_PIXEL.values()):
        suffixes = "|".join(suffix for suffix, value in BYTES_PER_PIXEL.items() if value == each)
        named = pc.match_substring_regex(keys, rf"(^|\.)({suffixes})$", ignore_case=True)
        bytes_per_pixel[booleans(named)] = each
    guess = (integers(columns.column("image_bytes")) / bytes_per_pixel).astype(np.int64).clip(*GUESSES)
    return np.where(exact > 0, exact, guess)


def columns_of(images: Iterable[PlannedImage]) -> pa.RecordBatch:
    """Images as columns in memory."""
    return _batch([(i.key, i.etag, i.bytes, i.width, i.height, i.place) for i in images])


def _batch(rows: list[tuple[Any, ...]]) -> pa.RecordBatch:
    columns = zip(*rows, strict=True) if rows else [()] * len(COLUMNS)
    arrays = [pa.array(c, field.type) for c, field in zip(columns, COLUMNS, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=COLUMNS)


class ImageTable(Sequence[PlannedImage]):
    """Images in a temporary file, in the order in which they were written; it lasts as long as this object.

    Every pass over it reads the file, in batches.

    Attributes:
        pixels: of all its images together.
    """

    def __init__(self, folder: tempfile.TemporaryDirectory[str], count: int, pixels: int) -> None:
        self._folder, self._count, self.pixels = folder, count, pixels

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The images as columns."""
        with pa.OSFile(str(_file(self._folder))) as source, pa.ipc.open_stream(source) as reader:
            yield from reader

    @override
    def __iter__(self) -> Iterator[PlannedImage]:
        for batch in self.batches():
            yield from planned_images(batch)

    @override
    def __len__(self) -> int:
        return self._count

    @override
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(eq, self, other))

    __hash__ = None  # type: ignore[assignment]

    @overload
    def __getitem__(self, index: int) -> PlannedImage: ...
    @overload
    def __getitem__(self, index: slice) -> list[PlannedImage]: ...
    @override
    def __getitem__(self, index: int | slice) -> PlannedImage | list[PlannedImage]:
        if isinstance(index, slice):
            start, stop, step = index.indices(self._count)
            if step < 1:
                raise ValueError("images can be taken in their order only")
            return list(itertools.islice(self, start, stop, step))
        at = range(self._count)[index]
        return next(itertools.islice(self, at, None))


class ImageTableWriter:
    """Writes an `ImageTable`."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="ncbatch-")
        self._sink = pa.OSFile(str(_file(self._folder)), "wb")
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        self._writer = pa.ipc.new_stream(self._sink, COLUMNS, options=options)
        self._waiting: list[tuple[Any, ...]] = []
        self._count = self._pixels = 0

    def add(
        self,
        key: str,
        etag: str,
        size: int | None,
        width: int | None = None,
        height: int | None = None,
        place: str | None = None,
    ) -> None:
        """Adds an image; size: in bytes, None of what is no image."""
        self._waiting.append((key, etag, size, width, height, place))
        if len(self._waiting) >= _BATCH_ROWS:
            self._flush()

    def add_batch(self, batch: pa.RecordBatch) -> None:
        """Adds images that are columns."""
        self._flush()
        self._writer.write_batch(batch)
        self._count += len(batch)
        self._pixels += int(pixels_of(batch).sum())

    def finish(self) -> ImageTable:
        """The table. Nothing can be added any more."""
        self._flush()
        self._writer.close()
        self._sink.close()
        return ImageTable(self._folder, self._count, self._pixels)

    def _flush(self) -> None:
        rows, self._waiting = self._waiting, []
        if rows:
            self.add_batch(_batch(rows))


def image_table(images: Iterable[PlannedImage]) -> ImageTable:
    """Writes images into a temporary file."""
    writer = ImageTableWriter()
    for image in images:
        writer.add(image.key, image.etag, image.bytes, image.width, image.height, image.place)
    return writer.finish()


def joined(tables: Iterable[ImageTable]) -> ImageTable:
    """The images of several tables, one after the other."""
    writer = ImageTableWriter()
    for table in tables:
        for batch in table.batches():
            writer.add_batch(batch)
    return writer.finish()


def batches_of(images: Sequence[PlannedImage]) -> Iterator[pa.RecordBatch]:
    """Images as columns, whatever holds them."""
    return images.batches() if isinstance(images, ImageTable) else iter([columns_of(images)])


def total_pixels(images: Sequence[PlannedImage]) -> int:
    """The pixels of all images together."""
    if isinstance(images, ImageTable):
        return images.pixels
    return sum(image.pixels for image in images)


def _file(folder: tempfile.TemporaryDirectory[str]) -> Path:
    return Path(folder.name) / "images.arrow"
