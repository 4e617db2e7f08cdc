"""What verifications and decodings on a cluster found, as a table: one row for each image that they checked.

A check's rows stand in the commits of its units while it goes on. When it is finished they are merged into a
few objects that hold nothing else, and one small object says so and how many there are.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pydantic

from ncbatch import layout
from ncbatch.errors import first_line
from ncbatch.metrics.errors import MetricsError
from ncbatch.metrics.parallel import in_parallel
from ncbatch.metrics.unit_result import CommittedUnit
from ncbatch.store import ObjectInfo, ObjectNotFound, Store

if TYPE_CHECKING:
    from pyarrow.dataset import Dataset

PART_ROWS = 250_000
PROBLEM = "problem"
"""Stands for the error class of a row with a problem, in counts."""

SCHEMA = pa.schema(
    [
        pa.field("check_name", pa.string(), nullable=False),
        pa.field("image_key", pa.string(), nullable=False),
        pa.field("variant", pa.string(), nullable=False),
        pa.field("generation", pa.int64(), nullable=False),
        pa.field("bitstream_key", pa.string(), nullable=False),
        pa.field("problem", pa.string()),
        pa.field("damaged", pa.bool_(), nullable=False),
        pa.field("written", pa.string()),
        pa.field("host", pa.string(), nullable=False),
        pa.field("attempt", pa.string(), nullable=False),
        pa.field("checked_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)


@dataclass(frozen=True)
class FindingRow:
    """What was found of one row of a run's table.

    Attributes:
        check_name: of the check, verify-00000001 and so on.
        image_key: of the row; likewise variant, generation and bitstream_key.
        problem: what is wrong, as a message; None: nothing.
        damaged: whether the row's own bytes are at fault.
        written: the key of the decoded image.
        host: the machine that looked.
        attempt: the execution of the unit that looked.
        checked_at: when, UTC.
    """

    check_name: str
    image_key: str
    variant: str
    generation: int
    bitstream_key: str
    problem: str | None
    damaged: bool
    written: str | None
    host: str
    attempt: str
    checked_at: datetime


class DoneCheck(pydantic.BaseModel, frozen=True):
    """What a finished check says of itself. parts: objects of its table."""

    checked: int
    problems: int
    parts: int


def findings_to_parquet(rows: Sequence[FindingRow]) -> bytes:
    """The rows as one Parquet file."""
    return _written(pa.Table.from_pylist([asdict(row) for row in rows], schema=SCHEMA))


def _written(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()


def parquet_to_findings(data: bytes, key: str) -> pa.Table:
    """The rows of a file that `findings_to_parquet` made; key: of the object, for messages.

    Raises:
        MetricsError: it is damaged.
    """
    try:
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        return file.read(columns=SCHEMA.names).cast(SCHEMA)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise MetricsError(
            f"{key}: this is no whole table of findings ({first_line(error)}); delete it, and check again"
        ) from error


def counted(rows: pa.Table) -> CommittedUnit:
    """What the findings of a unit add up to; those with a problem count as failed."""
    problems = len(rows) - rows["problem"].null_count
    ok = len(rows) - problems  # exact: their quality is not measured, and has no part in any mean
    classes = {PROBLEM: problems} if problems else {}
    return CommittedUnit(ok=ok, failed=problems, bpp=0.0, psnr=0.0, exact=ok, classes=classes)


def read_commits(work: Store, units: Sequence[str]) -> Iterator[pa.Table]:
    """The findings of each unit's commit, in the order of `units`; work: the check's folder."""
    keys = [layout.unit_key(unit) for unit in units]
    for key, data in zip(keys, in_parallel(work.get, keys), strict=True):
        yield parquet_to_findings(data, key)


def merge_findings(output: Store, work: Store, name: str, units: Sequence[str]) -> DoneCheck:
    """Makes the table of a check whose units are all committed, and says that it is finished.

    Whoever does it again writes the same objects.
    """
    waiting: list[pa.Table] = []
    checked = problems = parts = 0

    def put() -> None:
        nonlocal parts, waiting
        parts += 1
        output.put_if_absent(layout.findings_key(name, parts), _written(pa.concat_tables(waiting)))
        waiting = []

    for table in read_commits(work, units):
        if waiting and sum(map(len, waiting)) + len(table) > PART_ROWS:
            put()
        waiting.append(table)
        checked += len(table)
        problems += len(table) - table["problem"].null_count
    if waiting:
        put()
    done = DoneCheck(checked=checked, problems=problems, parts=parts)
    output.put_if_absent(layout.check_done_key(name), done.model_dump_json().encode())
    return done


def done_check(output: Store, name: str) -> DoneCheck | None:
    """What a check says of itself; None where it is not finished."""
    try:
        return DoneCheck.model_validate_json(output.get(layout.check_done_key(name)))
    except ObjectNotFound:
        return None
    except pydantic.ValidationError as error:
        raise MetricsError(f"{layout.check_done_key(name)} is damaged; delete it, and check again") from error


def problems_found(output: Store, name: str, done: DoneCheck) -> Iterator[FindingRow]:
    """The rows of a finished check that have a problem."""
    keys = [layout.findings_key(name, number) for number in range(1, done.parts + 1)]
    for key in keys:
        table = parquet_to_findings(output.get(key), key)
        for row in table.filter(pc.is_valid(table["problem"])).to_pylist():
            yield FindingRow(**row)


def findings_dataset(output: Store) -> Dataset | pa.Table:
    """The findings of all finished checks of a run, for DuckDB."""
    from ncbatch.metrics.dataset import parts_dataset  # here, since it loads pandas: half a second

    names = {layout.done_check_of_key(info.key) for info in output.list(layout.CHECKS_PREFIX)} - {None}
    parts = {
        layout.findings_key(name, number)
        for name in names
        if name is not None and (done := done_check(output, name)) is not None
        for number in range(1, done.parts + 1)
    }
    infos: list[ObjectInfo] = [i for i in output.list(layout.FINDINGS_PREFIX) if i.key in parts]
    return parts_dataset(output, infos, SCHEMA) if infos else SCHEMA.empty_table()
