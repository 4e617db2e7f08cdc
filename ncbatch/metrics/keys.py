"""Where in a run's folder the rows lie: unit commits, their traces, and the compacted table."""

import re

UNITS_PREFIX = "units/"
TRACES_PREFIX = "traces/"
METRICS_PREFIX = "metrics/"
MANIFEST_PREFIX = f"{METRICS_PREFIX}manifest-"

_UNIT = re.compile(rf"{UNITS_PREFIX}[^/]+/([^/]+)\.parquet")
_MANIFEST = re.compile(rf"{MANIFEST_PREFIX}([0-9]+)\.json")


def unit_key(unit: str) -> str:
    """The commit of one unit."""
    return f"{UNITS_PREFIX}{unit[:2]}/{unit}.parquet"


def trace_key(unit: str) -> str:
    """How the refinements of one unit went."""
    return f"{TRACES_PREFIX}{unit[:2]}/{unit}.parquet"


def part_key(digest: str) -> str:
    """A part of the compacted table, named by the first 16 hexadecimal digits of its SHA-256."""
    return f"{METRICS_PREFIX}part-{digest[:16]}.parquet"


def manifest_key(n: int) -> str:
    """The n-th manifest; padded, so that listings show them in order."""
    return f"{MANIFEST_PREFIX}{n:08d}.json"


def unit_of_key(key: str) -> str | None:
    """The unit whose commit the object at `key` is, or None for any other object."""
    match = _UNIT.fullmatch(key)
    return match[1] if match else None


def number_of_manifest(key: str) -> int | None:
    """The number of the manifest at `key`, or None for any other object."""
    match = _MANIFEST.fullmatch(key)
    return int(match[1]) if match else None
