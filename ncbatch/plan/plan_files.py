"""A plan as Parquet files: written unit by unit, and read as units that fetch their images when asked."""

from __future__ import annotations

import hashlib
import io
import sys
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from typing_extensions import override

from ncbatch import layout
from ncbatch.errors import RunError
from ncbatch.plan.columns import integers, whole
from ncbatch.plan.image_table import COLUMNS, pixels_of, planned_images
from ncbatch.plan.units import PlannedImage, Unit
from ncbatch.store import ObjectNotFound, Store

_ROWS_PER_FILE = 100_000
SCHEMA = pa.schema(
    [
        pa.field("unit", pa.string(), nullable=False),
        pa.field("variant", pa.string(), nullable=False),
        pa.field("generation", pa.int32(), nullable=False),
        pa.field("image_key", pa.string(), nullable=False),
        pa.field("image_etag", pa.string(), nullable=False),
        pa.field("image_bytes", pa.int64(), nullable=False),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("place", pa.string()),
    ]
)
"""Of a plan file."""
_FILES_HELD = 2

Span = tuple[str, int, int]
"""Rows of a plan file: its key, the first row, and the row after the last."""


def write_plan(output: Store, units: Iterable[Unit], generation: int) -> tuple[str, ...]:
    """Writes a generation's plan files and returns their keys. Nothing refers to them yet."""
    keys = []
    for part, rows in enumerate(_files_of(units)):
        columns = zip(*rows, strict=True)
        arrays = [pa.array(c, field.type) for c, field in zip(columns, SCHEMA, strict=True)]
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_arrays(arrays, schema=SCHEMA), sink, compression="zstd")
        data = sink.getvalue()
        key = layout.plan_key(generation, hashlib.sha256(data).hexdigest(), part)
        output.put_if_absent(key, data)
        keys.append(key)
    return tuple(keys)


def _files_of(units: Iterable[Unit]) -> Iterator[list[tuple[Any, ...]]]:
    """The rows of each file; those of a unit stand together."""
    rows: list[tuple[Any, ...]] = []
    for u in units:
        if rows and len(rows) + len(u.images) > _ROWS_PER_FILE:
            yield rows
            rows = []
        about = u.id, u.variant, u.generation
        rows += [(*about, i.key, i.etag, i.bytes, i.width, i.height, i.place) for i in u.images]
    if rows:
        yield rows


class PlanFiles:
    """The plan files of a run, of which the last ones read are held. Threads may share it.

    Args:
        output: the run's folder.
        schema: the columns that are read.
    """

    def __init__(self, output: Store, schema: pa.Schema = SCHEMA) -> None:
        self.output, self._schema = output, schema
        self._lock = threading.Lock()
        self._held: OrderedDict[str, pa.Table] = OrderedDict()

    def table(self, key: str) -> pa.Table:
        """The rows of a plan file.

        Raises:
            RunError: it is missing or damaged.
        """
        with self._lock:
            if key not in self._held:
                self._held[key] = self._read(key)
            self._held.move_to_end(key)
            while len(self._held) > _FILES_HELD:
                self._held.popitem(last=False)
            return self._held[key]

    def _read(self, key: str) -> pa.Table:
        uri = self.output.uri
        try:
            # Not `read_table`, which loads pyarrow.dataset and with it pandas: half a second of `status`.
            file = pq.ParquetFile(pa.BufferReader(self.output.get(key)))
            table = file.read(columns=self._schema.names)
            if "place" not in table.column_names:  # as of an earlier ncbatch, which knew no shards
                table = table.append_column("place", pa.nulls(len(table), pa.string()))
            return table.select(self._schema.names).cast(self._schema).combine_chunks()
        except ObjectNotFound as error:
            raise RunError(f"the plan {uri}{key} is missing; restore it") from error
        except (pa.ArrowException, OSError, ValueError) as error:
            raise RunError(f"the plan {uri}{key} is damaged; restore it") from error


class StoredImages(Sequence[PlannedImage]):
    """The images of a planned unit, read from the plan when they are asked for.

    It travels to a worker without them, and is read there.

    Attributes:
        pixels: of all its images, of some a guess; longest: of the largest one.
    """

    __slots__ = ("_count", "_files", "_held", "longest", "pixels", "spans")

    def __init__(
        self, files: PlanFiles, spans: tuple[Span, ...], pixels: int, longest: int, *, hold: bool = False
    ) -> None:
        """hold: whether images are kept once they have been read."""
        self._files, self.spans, self.pixels, self.longest = files, spans, pixels, longest
        self._count = sum(stop - start for _, start, stop in spans)
        self._held: tuple[PlannedImage, ...] | None = () if hold else None

    def columns(self) -> pa.Table:
        """The images as columns."""
        found = [self._files.table(key).slice(start, stop - start) for key, start, stop in self.spans]
        return pa.concat_tables([table.select(COLUMNS.names) for table in found])

    def _images(self) -> tuple[PlannedImage, ...]:
        if self._held:
            return self._held
        images = tuple(planned_images(self.columns()))
        if self._held is not None:
            self._held = images
        return images

    @override
    def __iter__(self) -> Iterator[PlannedImage]:
        return iter(self._images())

    @override
    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> PlannedImage: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[PlannedImage]: ...
    @override
    def __getitem__(self, index: int | slice) -> PlannedImage | Sequence[PlannedImage]:
        return self._images()[index]

    @override
    def __eq__(self, other: object) -> bool:
        if isinstance(other, StoredImages) and self.spans == other.spans:
            return True
        return isinstance(other, Sequence) and self._images() == tuple(other)

    @override
    def __hash__(self) -> int:
        return hash(self._images())

    @override
    def __repr__(self) -> str:
        return repr(self._images())

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self._files.output, self.spans, self.pixels, self.longest)


@lru_cache(maxsize=4)
def _files_at(output: Any) -> PlanFiles:
    return PlanFiles(output)


def _reopened(output: Store, spans: tuple[Span, ...], pixels: int, longest: int) -> StoredImages:
    hashable: Any = output
    return StoredImages(_files_at(hashable), spans, pixels, longest, hold=True)


def read_plan(output: Store, keys: Iterable[str]) -> list[Unit]:
    """The units of a plan.

    Raises:
        RunError: a plan file is missing or damaged.
    """
    return list(iterate_plan(output, keys))


def iterate_plan(output: Store, keys: Iterable[str]) -> Iterator[Unit]:
    """The same one by one: those of a large run take some hundred megabytes."""
    files = PlanFiles(output)
    last: Unit | None = None
    for key in keys:
        for unit in _units_of(files, key):
            # A unit's rows stand together, but may go on in the next file of an earlier ncbatch.
            if last is not None and last.id == unit.id:
                unit = _joined(files, last, unit)
            elif last is not None:
                yield last
            last = unit
    if last is not None:
        yield last


def _units_of(files: PlanFiles, key: str) -> Iterator[Unit]:
    table = files.table(key)
    if not len(table):
        return
    codes = integers(whole(table["unit"]).dictionary_encode().indices)
    starts = np.concatenate([[0], np.flatnonzero(np.diff(codes)) + 1])
    stops = [*starts[1:].tolist(), len(table)]
    pixels = pixels_of(table)
    totals, longest = np.add.reduceat(pixels, starts).tolist(), np.maximum.reduceat(pixels, starts).tolist()
    about = [table[name] for name in ("unit", "variant", "generation")]
    for place, start in enumerate(starts.tolist()):
        name, variant, generation = (column[start].as_py() for column in about)
        variant = sys.intern(variant)  # one text for all units
        span = (key, start, stops[place])
        yield Unit(name, variant, generation, StoredImages(files, (span,), totals[place], longest[place]))


def _joined(files: PlanFiles, first: Unit, rest: Unit) -> Unit:
    one, two = first.images, rest.images
    assert isinstance(one, StoredImages) and isinstance(two, StoredImages)
    images = StoredImages(
        files, one.spans + two.spans, one.pixels + two.pixels, max(one.longest, two.longest)
    )
    return Unit(first.id, first.variant, first.generation, images)
