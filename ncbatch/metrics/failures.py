"""Why images fail: every error class of the table, what is to blame, and what can be done about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ncbatch.logs import lines_of
from ncbatch.store import Store

if TYPE_CHECKING:
    from ncbatch.metrics.query import OpenTable


@dataclass(frozen=True)
class FailureClass:
    """What is known of an error class.

    Attributes:
        fault: what is to blame. "image": the file, and trying it again as it is gives the same; "variant":
            what was asked for does not fit the file; "system": memory, workers or permissions, which may be
            mended.
        remedy: what to do, as a clause.
        kills: whether the worker was lost with it.
    """

    fault: Literal["image", "variant", "system"]
    remedy: str
    kills: bool = False


_REPLACE = "the same encode command takes what was replaced"
_RETRY = "then encode with --retry-failed"
CLASSES: dict[str, FailureClass] = {
    "empty": FailureClass("image", f"upload the files again; {_REPLACE}"),
    "unreadable": FailureClass("image", f"open and save the images again, or leave them out; {_REPLACE}"),
    "truncated": FailureClass("image", f"copy the files again from their source; {_REPLACE}"),
    "unsupported": FailureClass("image", f"convert them to PNG; {_REPLACE}"),
    "damaged_shard": FailureClass("image", f"copy the shards again from their source; {_REPLACE}"),
    "too_large": FailureClass("variant", "encode them into another output with a larger --max-pixels"),
    "too_many_bytes": FailureClass(
        "variant",
        "leave them out with --exclude, or encode them into another output with a larger --max-bytes",
    ),
    "too_small": FailureClass("variant", "encode them into another output: --target-psnr, --distortion mse"),
    "transparent": FailureClass(
        "variant", "encode them into another output with --alpha keep, white or black"
    ),
    "several_frames": FailureClass(
        "variant", "encode them into another output with --frames first, or take their frames apart"
    ),
    "changed": FailureClass("image", "they changed during the run; run the same encode command again"),
    "missing": FailureClass("image", f"put the files back; {_RETRY}"),
    "access_denied": FailureClass("system", f"allow the workers to read them; {_RETRY}"),
    "refused": FailureClass("system", f"see what the store said; {_RETRY}"),
    "out_of_memory": FailureClass("system", f"give each worker more memory, or run fewer of them; {_RETRY}"),
    "process_killed": FailureClass("system", f"see the logs, memory first; {_RETRY}", kills=True),
    "device_failed": FailureClass("system", f"test the GPUs by `ncbatch selftest`; {_RETRY}", kills=True),
    "deadline": FailureClass("system", f"raise --min-deadline; {_RETRY}", kills=True),
    "internal_error": FailureClass("system", f"see the logs; {_RETRY}", kills=True),
    "diverged": FailureClass("variant", "encode them into another output with --fall-back or other settings"),
    "decode_check": FailureClass("variant", "report it: what was coded did not decode, so it was not kept"),
}
TRANSIENT = frozenset(
    {
        *("missing", "access_denied", "refused", "out_of_memory"),
        *("process_killed", "device_failed", "internal_error"),
    }
)
"""Classes that may be a matter of the moment or of the machine: their rows are tried once more."""

_UNKNOWN = FailureClass("system", "read the errors; a newer ncbatch may know the class")


def failure_class(name: str) -> FailureClass:
    """What is known of an error class by its name; a class of a newer ncbatch gets a general remedy."""
    return CLASSES.get(name, _UNKNOWN)


@dataclass(frozen=True)
class Failure:
    """Why an image has no bitstream.

    Attributes:
        error_class: one of CLASSES, for grouping.
        error: a message.
    """

    error_class: str
    error: str


@dataclass(frozen=True)
class Example:
    """A failed row: its image, its variant, the message of its error, and which worker made it where.

    Attributes:
        host: the machine.
        unit: what the worker was at.
        attempt: the execution of that; lines of the worker's log name it.
        worker_log: path of that log on the host; None where it is not known.
    """

    image_key: str
    variant: str
    error: str
    host: str | None
    unit: str
    attempt: str
    worker_log: str | None

    @property
    def lines(self) -> str:
        """The command that finds what the worker logged about it, on the host."""
        return lines_of(self.attempt, self.worker_log)


@dataclass(frozen=True)
class Failures:
    """The failed rows of one error class.

    Attributes:
        name: the class.
        count: how many rows it has.
        examples: the first few of them.
    """

    name: str
    count: int
    examples: tuple[Example, ...]

    @property
    def known(self) -> FailureClass:
        """What is known of the class."""
        return failure_class(self.name)


_COUNTS = """
select error_class, count(*) as count from metrics where status = 'failed'
group by error_class order by count desc, error_class
"""
_EXAMPLES = """
select error_class, image_key, variant, coalesce(error, '') as error, host, unit, attempt,
    worker_log
from metrics where status = 'failed'
qualify row_number() over (partition by error_class order by image_key, variant) <= {examples}
order by image_key, variant
"""


def failures_of(output: Store, examples: int) -> Sequence[Failures]:
    """The failed rows of a run by error class, the most frequent class first.

    Args:
        output: the run's folder.
        examples: how many rows of each class to return, in the order of their keys.
    """
    from ncbatch.metrics.query import open_table  # here, since DuckDB is slow to import

    with open_table(output) as table:
        return failures_in(table, examples)


def failures_in(table: OpenTable, examples: int) -> Sequence[Failures]:
    """As `failures_of`, for a table that is open."""
    shown: dict[str, list[Example]] = {}
    for row in table.query(_EXAMPLES.format(examples=int(examples))).to_pylist():
        shown.setdefault(row.pop("error_class"), []).append(Example(**row))
    return [
        Failures(row["error_class"], row["count"], tuple(shown.get(row["error_class"], ())))
        for row in table.query(_COUNTS).to_pylist()
    ]
