"""Which rows of a run's table are verified or decoded, in SQL."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from ncbatch.decoding.sample import Sample
from ncbatch.errors import UsageError
from ncbatch.metrics.query import OpenTable, open_table
from ncbatch.metrics.sql import quoted
from ncbatch.plan.spec import RunSpec, read_run
from ncbatch.store import Store

COLUMNS = (
    "image_key", "variant", "status", "model_digest", "bitstream_key", "offset", "length", "sha256", "width",
    "height", "generation",
)  # fmt: skip
"""What a reader needs to know of a row."""


def check_variant(spec: RunSpec, variant: str | None) -> None:
    """Raises UsageError: the run has no such variant."""
    known = [each.name for each in spec.variants]
    if variant is not None and variant not in known:
        raise UsageError(f"the run has no variant {variant!r}; it has {', '.join(known)}")


def chosen_rows(
    table: OpenTable, columns: str | Sequence[str], variant: str | None, sample: Sample | None, seed: str
) -> str:
    """A query for the ok rows that are wanted.

    Args:
        table: of the run.
        columns: that it gives.
        variant: only rows of this one; None: of all.
        sample: only so many, drawn at random; None: all.
        seed: of the draw; the same one draws the same rows of the same table.
    """
    names = columns if isinstance(columns, str) else ", ".join(f'"{name}"' for name in columns)
    where = "status = 'ok'" + (f" and variant = {quoted(variant)}" if variant is not None else "")
    if sample is None:
        return f"select {names} from metrics where {where}"
    rows = table.query(f"select count(*) as rows from metrics where {where}")["rows"][0].as_py()
    drawn = (
        f"select {names} from metrics where {where} "
        f"order by hash(image_key, variant, {quoted(seed)}), image_key, variant limit {sample.of(rows)}"
    )
    # Images of a pack together, which is opened once for all of them.
    return f'select * from ({drawn}) order by variant, bitstream_key, "offset"'


def read_rows(output: Store, variant: str | None, sample: Sample) -> list[dict[str, Any]]:
    """Some rows of a run, drawn at random, with what `RunReader` needs to know of them."""
    check_variant(read_run(output).spec, variant)
    with open_table(output) as table:
        rows = table.query(chosen_rows(table, COLUMNS, variant, sample, secrets.token_hex(8))).to_pylist()
    return list(rows)
