"""Plans: which images a run encodes, cut into units."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import pyarrow as pa
import pyarrow.parquet as pq

from ncbatch import layout
from ncbatch.errors import RunError
from ncbatch.images.limits import DEFAULT_LIMITS
from ncbatch.store import ObjectNotFound, Store

_ROWS_PER_FILE = 100_000
_BYTES_PER_PIXEL = {"png": 2.0, "tif": 2.0, "tiff": 2.0, "bmp": 2.0, "webp": 0.15}
_SCHEMA = pa.schema(
    [
        pa.field("unit", pa.string(), nullable=False),
        pa.field("variant", pa.string(), nullable=False),
        pa.field("generation", pa.int32(), nullable=False),
        pa.field("image_key", pa.string(), nullable=False),
        pa.field("image_etag", pa.string(), nullable=False),
        pa.field("image_bytes", pa.int64(), nullable=False),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
    ]
)


@dataclass(frozen=True, slots=True)
class PlannedImage:
    """One input as it was listed; width and height where its header or a manifest told them.

    content: SHA-256 of its bytes, in hexadecimal digits, where they have been read; never in a plan.
    """

    key: str
    etag: str
    bytes: int
    width: int | None = None
    height: int | None = None
    content: str | None = None

    @property
    def has_size(self) -> bool:
        """Whether width and height are known."""
        return bool(self.width and self.height)

    @property
    def pixels(self) -> int:
        """Width times height; a guess where they are unknown: about 0.4 bytes a pixel (JPEG), 0.15 (WebP) or
        2 (PNG), and no more than an image may have by default: an object without a suffix may be anything.
        """
        if self.width and self.height:
            return self.width * self.height
        suffix = self.key.lower().rpartition(".")[2]
        guess = int(self.bytes / _BYTES_PER_PIXEL.get(suffix, 0.4))
        return min(max(guess, 64 * 64), DEFAULT_LIMITS.max_pixels)


@dataclass(frozen=True)
class Unit:
    """The images of one variant that one worker call does."""

    id: str
    variant: str
    generation: int
    images: tuple[PlannedImage, ...]

    @property
    def pixels(self) -> int:
        """The pixels of all its images, of some a guess (see `PlannedImage.pixels`)."""
        return sum(image.pixels for image in self.images)


def make_units(
    images: Sequence[PlannedImage],
    variant: str,
    variant_digest: str,
    generation: int,
    pixels_per_unit: int,
    at_least: int = 1,
) -> list[Unit]:
    """Cuts images, in their order, into units of about `pixels_per_unit` pixels.

    Args:
        at_least: images of a unit, where there are as many.
    """
    groups: list[list[PlannedImage]] = []
    room = 0
    for image in images:
        if not groups or (room < image.pixels // 2 and len(groups[-1]) >= at_least):
            groups.append([])
            room = pixels_per_unit
        groups[-1].append(image)
        room -= image.pixels
    if len(groups) > 1 and len(groups[-1]) < at_least:
        groups[-2:] = [groups[-2] + groups[-1]]
    return [_unit(group, variant, variant_digest, generation) for group in groups]


def _unit(images: Iterable[PlannedImage], variant: str, variant_digest: str, generation: int) -> Unit:
    images = tuple(images)
    digest = hashlib.sha256(f"{variant} {variant_digest} {generation}".encode())
    for image in images:
        digest.update(f"\n{len(image.key)} {image.key} {image.etag}".encode())
    return Unit(digest.hexdigest()[:32], variant, generation, images)


def write_plan(output: Store, units: Sequence[Unit], generation: int) -> tuple[str, ...]:
    """Writes a generation's plan files and returns their keys. Nothing refers to them yet."""
    rows = [
        (u.id, u.variant, u.generation, i.key, i.etag, i.bytes, i.width, i.height)
        for u in units
        for i in u.images
    ]
    keys = []
    for part, start in enumerate(range(0, len(rows), _ROWS_PER_FILE)):
        columns = list(zip(*rows[start : start + _ROWS_PER_FILE], strict=True))
        arrays = [pa.array(c, field.type) for c, field in zip(columns, _SCHEMA, strict=True)]
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_arrays(arrays, schema=_SCHEMA), sink, compression="zstd")
        data = sink.getvalue()
        key = layout.plan_key(generation, hashlib.sha256(data).hexdigest(), part)
        output.put_if_absent(key, data)
        keys.append(key)
    return tuple(keys)


def read_plan_table(output: Store, keys: Iterable[str], columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of a plan as they were written, or only some of their columns.

    Raises:
        RunError: a plan file is missing or damaged.
    """
    fields = _SCHEMA.names if columns is None else columns
    schema = pa.schema([_SCHEMA.field(name) for name in fields])
    tables = [pa.Table.from_batches([], schema)]  # `empty_table` loads pandas, too
    for key in keys:
        try:
            # Not `read_table`, which loads pyarrow.dataset and with it pandas: half a second of `status`.
            file = pq.ParquetFile(pa.BufferReader(output.get(key)))
            tables.append(file.read(columns=list(fields)).cast(schema))
        except ObjectNotFound as error:
            raise RunError(f"the plan {output.uri}{key} is missing; restore it") from error
        except (pa.ArrowException, OSError, ValueError) as error:
            raise RunError(f"the plan {output.uri}{key} is damaged; restore it") from error
    return pa.concat_tables(tables)


def read_plan(output: Store, keys: Iterable[str]) -> list[Unit]:
    """The units of a plan.

    Raises:
        RunError: a plan file is missing or damaged.
    """
    rows = read_plan_table(output, keys).to_pylist()
    # A unit's rows stand together, but may go on in the next file.
    return [
        Unit(
            unit_id,
            group[0]["variant"],
            group[0]["generation"],
            tuple(
                PlannedImage(r["image_key"], r["image_etag"], r["image_bytes"], r["width"], r["height"])
                for r in group
            ),
        )
        for unit_id, group in ((k, list(g)) for k, g in groupby(rows, key=lambda row: row["unit"]))
    ]
