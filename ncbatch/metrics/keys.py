"""Where in a run's folder the rows lie: unit commits, their traces, and the compacted table.

The compacted table is the Parquet objects below `metrics/`, and nothing else lies there: whatever reads a
folder of Parquet files reads it as it is. Its parts are numbered, each is created once and never changed or
replaced, and each unit's rows are in one part only. Runs that were compacted before that (into parts named by
their hash, listed in manifests) are read, too, and put in order by the next compaction.
"""

import re

UNITS_PREFIX = "units/"
TRACES_PREFIX = "traces/"
METRICS_PREFIX = "metrics/"

_UNIT = re.compile(rf"{UNITS_PREFIX}[^/]+/([^/]+)\.parquet")
_PART = re.compile(rf"{METRICS_PREFIX}part-([0-9]{{8}})\.parquet")
_OLD = re.compile(rf"{METRICS_PREFIX}(part-[0-9a-f]{{16}}\.parquet|manifest-[0-9]+\.json)")


def unit_key(unit: str) -> str:
    """The commit of one unit."""
    return f"{UNITS_PREFIX}{unit[:2]}/{unit}.parquet"


def trace_key(unit: str) -> str:
    """How the refinements of one unit went."""
    return f"{TRACES_PREFIX}{unit[:2]}/{unit}.parquet"


def part_key(n: int) -> str:
    """The n-th part of the compacted table, counted from 1."""
    return f"{METRICS_PREFIX}part-{n:08d}.parquet"


def unit_of_key(key: str) -> str | None:
    """The unit whose commit the object at `key` is, or None for any other object."""
    match = _UNIT.fullmatch(key)
    return match[1] if match else None


def number_of_part(key: str) -> int | None:
    """The number of the part at `key`, or None for any other object."""
    match = _PART.fullmatch(key)
    return int(match[1]) if match else None


def is_of_old_layout(key: str) -> bool:
    """Whether it is a part or a manifest of the compacted table as it was laid out at first."""
    return _OLD.fullmatch(key) is not None
