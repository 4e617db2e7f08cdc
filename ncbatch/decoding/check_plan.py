"""What a verification or a decoding on a cluster looks at: its scope, and its plan, frozen when it begins.

A check is described by one create-only object, written after its plan. Its folder has the layout of a run's,
so that what plans, drives and resumes a run does the same with a check.
"""

from __future__ import annotations

import hashlib
import io
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import pydantic

from ncbatch import __version__, layout
from ncbatch.errors import RunError
from ncbatch.metrics.query import OpenTable
from ncbatch.plan.plan_files import SCHEMA as PLAN_SCHEMA
from ncbatch.plan.plan_files import PlanFiles, StoredImages, read_plan
from ncbatch.plan.units import Unit
from ncbatch.store import ObjectNotFound, Store

CHECK_SCHEMA = pa.schema(
    [
        *PLAN_SCHEMA,
        pa.field("bitstream_key", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("length", pa.int64(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("model_digest", pa.string()),
        pa.field("name", pa.string()),
    ]
)
"""Of a check's plan. generation: of the row; name: of the decoded image."""

_READ = tuple(name for name in CHECK_SCHEMA.names if name not in ("unit", "name", "place"))
_ROWS_PER_FILE = 100_000
_UNIT_IMAGES = 10_000


class Scope(pydantic.BaseModel, frozen=True):
    """What a check looks at, and what for.

    Attributes:
        kind: whether rows are verified, or decoded into PNGs.
        variant: only rows of this one; None: of all.
        sample: so many rows, or such a share of them, as the user says it; None: all.
        destination: URI of the folder for decoded images.
        overwrite: whether other contents there are replaced.
        output_format: whether decoded images are files of their own, or members of tars.
    """

    kind: Literal["verify", "decode"]
    variant: str | None = None
    sample: str | None = None
    destination: str | None = None
    overwrite: bool = False
    output_format: Literal["files", "tar"] = "files"


class CheckFile(pydantic.BaseModel, frozen=True):
    """`checks/<check>.json`. rows: that are looked at; plan: keys in the check's folder."""

    scope: Scope
    plan: tuple[str, ...]
    rows: int
    created_at: str
    ncbatch_version: str


@dataclass(frozen=True)
class Check:
    """A check of a run. name: as in its keys; work: its folder."""

    name: str
    file: CheckFile
    work: Store

    def units(self) -> list[Unit]:
        """The planned units."""
        return read_plan(self.work, self.file.plan)


def read_check(output: Store, name: str) -> CheckFile:
    """What a check looks at.

    Raises:
        RunError: it is damaged.
    """
    try:
        return CheckFile.model_validate_json(output.get(layout.check_key(name)))
    except (ObjectNotFound, pydantic.ValidationError) as error:
        raise RunError(
            f"{output.uri}{layout.check_key(name)} is damaged; delete it, and check again"
        ) from error


def open_checks(output: Store) -> list[str]:
    """The names of the checks that are not finished."""
    keys = [info.key for info in output.list(layout.CHECKS_PREFIX)]
    done = {layout.done_check_of_key(key) for key in keys}
    return [name for key in keys if (name := layout.check_of_key(key)) is not None and name not in done]


def next_name(output: Store, kind: str) -> str:
    """A name that no check has yet."""
    keys = (info.key for info in output.list(layout.CHECKS_PREFIX))
    names = (layout.check_of_key(key) for key in keys)
    numbers = [int(name.rpartition("-")[2]) for name in names if name and name.startswith(f"{kind}-")]
    return layout.check_name(kind, max(numbers, default=0) + 1)


@dataclass(frozen=True)
class Cutting:
    """How a check is cut into units.

    Attributes:
        pixels: of a unit, by variant.
        packed: the variants whose images are in packs, of which none is cut.
        name_of: the name of the decoded image, by its key and variant; None: nothing is written.
    """

    pixels: dict[str, int]
    packed: frozenset[str]
    name_of: Callable[[str, str], str] | None = None


def plan_check(
    output: Store, name: str, work: Store, scope: Scope, table: OpenTable, sql: str, cutting: Cutting
) -> Check | None:
    """Plans a check; None where another one of this name was planned first.

    Args:
        output: the run's folder.
        name: of the check.
        work: its folder.
        scope: what it looks at.
        table: of the run.
        sql: gives the rows, with the columns of `check_columns`.
        cutting: how they are cut.
    """
    keys, rows = list[str](), 0
    with table.batches(sql) as batches:
        for part, columns in enumerate(_files(cut(batches, name, cutting))):
            sink = io.BytesIO()
            pq.write_table(columns, sink, compression="zstd")
            data = sink.getvalue()
            keys.append(layout.plan_key(0, hashlib.sha256(data).hexdigest(), part))
            work.put_if_absent(keys[-1], data)
            rows += len(columns)
    content = CheckFile(
        scope=scope,
        plan=tuple(keys),
        rows=rows,
        created_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        ncbatch_version=__version__,
    )
    first = output.put_if_absent(layout.check_key(name), content.model_dump_json(indent=1).encode())
    return Check(name, content, work) if first else None


def check_columns() -> str:
    """What a select names, so that `plan_check` can read what it gives."""
    return ", ".join(f'"{name}"' for name in _READ)


def cut(batches: Iterable[pa.RecordBatch], check: str, cutting: Cutting) -> Iterator[pa.Table]:
    """The rows with their units; those of one variant that follow each other go together."""
    number, room, images, before = 0, 0, 0, ("", "")
    for batch in batches:
        columns = {name: batch.column(name) for name in _READ}
        variants, objects = (columns[name].to_pylist() for name in ("variant", "bitstream_key"))
        sizes = zip(columns["width"].to_pylist(), columns["height"].to_pylist(), strict=True)
        units = []
        for variant, key, (width, height) in zip(variants, objects, sizes, strict=True):
            in_pack = variant in cutting.packed and (variant, key) == before
            full = room <= 0 or images >= _UNIT_IMAGES
            if variant != before[0] or (full and not in_pack):
                number, room, images = number + 1, cutting.pixels[variant], 0
            room, images, before = room - width * height, images + 1, (variant, key)
            units.append(_unit(check, number))
        columns["unit"] = pa.array(units, pa.string())
        columns["name"] = _names(columns, cutting.name_of)
        columns["place"] = pa.nulls(len(batch), pa.string())
        arrays = [columns[field.name].cast(field.type) for field in CHECK_SCHEMA]
        yield pa.Table.from_arrays(arrays, schema=CHECK_SCHEMA)


def _unit(check: str, number: int) -> str:
    return hashlib.sha256(f"{check} {number}".encode()).hexdigest()[:32]


def _names(columns: dict[str, Any], name_of: Callable[[str, str], str] | None) -> pa.Array:
    if name_of is None:
        return pa.nulls(len(columns["image_key"]), pa.string())
    keys, variants = (columns[name].to_pylist() for name in ("image_key", "variant"))
    return pa.array(map(name_of, keys, variants), pa.string())


def _files(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The rows of each file; a unit may go on in the next."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        if sum(map(len, waiting)) >= _ROWS_PER_FILE:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting and any(map(len, waiting)):
        yield pa.concat_tables(waiting)


def rows_of(unit: Unit, files: PlanFiles) -> list[dict[str, Any]]:
    """The rows of a planned unit, with the columns of CHECK_SCHEMA.

    Args:
        unit: of a check.
        files: of its plan, with all columns.
    """
    assert isinstance(unit.images, StoredImages)
    tables = (files.table(key).slice(start, stop - start) for key, start, stop in unit.images.spans)
    return list(itertools.chain.from_iterable(table.to_pylist() for table in tables))
