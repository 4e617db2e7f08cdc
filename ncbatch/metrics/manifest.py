"""Manifests: which parts the compacted table consists of, and which unit commits these parts cover."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from ncbatch.metrics.errors import MetricsError
from ncbatch.metrics.keys import MANIFEST_PREFIX, METRICS_PREFIX, manifest_key, number_of_manifest
from ncbatch.store import Store

MANIFEST_VERSION = 1

# True whatever happened to the compacted table, since unit commits are never deleted.
REBUILD = f"delete {METRICS_PREFIX} and compact again: every row is still in the unit commits"


@dataclass(frozen=True)
class Part:
    """One Parquet object of the compacted table."""

    key: str
    rows: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The whole compacted table: every part, and every unit whose rows are in them. Number 0: none yet."""

    n: int = 0
    parts: tuple[Part, ...] = ()
    units: tuple[str, ...] = ()

    def to_json(self) -> bytes:
        """As stored; the number is in the key."""
        content = {
            "version": MANIFEST_VERSION,
            "parts": [asdict(part) for part in self.parts],
            "units": list(self.units),
        }
        return json.dumps(content).encode()


def newest_manifest(store: Store) -> Manifest:
    """The manifest with the highest number, which alone describes the compacted table.

    Raises MetricsError if it cannot be read.
    """
    numbers = (number_of_manifest(info.key) for info in store.list(MANIFEST_PREFIX))
    n = max((number for number in numbers if number is not None), default=0)
    return _parse(n, store.get(manifest_key(n))) if n else Manifest()


def _parse(n: int, data: bytes) -> Manifest:
    key = manifest_key(n)
    try:
        content = json.loads(data)
        version = content["version"]
        if isinstance(version, int) and version > MANIFEST_VERSION:
            raise MetricsError(
                f"{key} has version {version}, newer than this ncbatch reads; upgrade ncbatch."
            )
        parts = tuple(
            Part(str(part["key"]), int(part["rows"]), str(part["sha256"])) for part in content["parts"]
        )
        return Manifest(n, parts, tuple(str(unit) for unit in content["units"]))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise MetricsError(f"{key} is damaged; {REBUILD}.") from error
