"""What stands in a run's output, looked at without the command line."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from ncbatch.decoding.run_reader import RunReader
from ncbatch.metrics.table import read_table
from ncbatch.store import Store, StoreOptions, open_store


def output_store(uri: str | Path, endpoint_url: str | None = None) -> Store:
    return open_store(str(uri), StoreOptions(endpoint_url=endpoint_url), create=True)


def rows(output: Store) -> dict[str, dict[str, Any]]:
    """The run's rows by image key; fails when an image has more than one."""
    table = read_table(output).to_pylist()
    counted = Counter(row["image_key"] for row in table)
    assert set(counted.values()) <= {1}, f"several rows for one image: {counted}"
    return {row["image_key"]: row for row in table}


def statuses(output: Store) -> dict[str, str]:
    """`ok` or the error class of every image."""
    return {key: row["error_class"] or row["status"] for key, row in rows(output).items()}


def assert_verified(output: Store) -> None:
    """Every ok row's bytes are there, hash as committed and decode."""
    problems = [finding for finding in RunReader(output).verify() if finding.problem]
    assert not problems


def count(output: Store, prefix: str) -> int:
    return sum(1 for _ in output.list(prefix))
