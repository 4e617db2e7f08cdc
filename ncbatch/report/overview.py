"""The headline of a report: what a run did, what it took and what it saved."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ncbatch.plan.commits import committed_units
from ncbatch.plan.spec import RunSpec, read_run
from ncbatch.plan.status import count_plan
from ncbatch.report.rows import EXACT, Rows
from ncbatch.store import Store

_TOTALS = f"""
select count(*) as images, count(*) filter (status = 'ok') as ok,
       count(*) filter (status = 'failed') as failed,
       count(*) filter (status = 'ok' and error is not null) as noted,
       count(*) filter (status = 'ok' and {EXACT}) as exact,
       sum(image_bytes) filter (status = 'ok') as bytes_in, sum(length) filter (status = 'ok') as bytes_out,
       sum(width * height) filter (status = 'ok') / 1e6 as megapixels,
       sum(device_seconds) as device_seconds, avg(bpp) as bpp,
       avg(psnr) filter (not {EXACT}) as psnr, avg(ms_ssim) as ms_ssim,
       min(least(coalesce(started_at, finished_at), finished_at)) as first, max(finished_at) as last
from metrics
"""

# Apart from the totals: beside other aggregates, DuckDB takes a hundred megabytes for distinct values.
_DISTINCT = "select count(*) as count from (select distinct {column} from metrics where {column} is not null)"

_ORIGINALS = """
select sum(bytes) as bytes
from (select max(image_bytes) as bytes from metrics where status = 'ok' group by image_key)
"""

_BY_VARIANT = """
select variant, count(*) filter (status = 'ok') as ok, count(*) filter (status = 'failed') as failed,
       sum(image_bytes) filter (status = 'ok') as bytes_in, sum(length) filter (status = 'ok') as bytes_out,
       sum(device_seconds) as device_seconds
from metrics group by variant order by variant
"""


@dataclass(frozen=True)
class RunFacts:
    """What a run was asked to do.

    Attributes:
        planned: encodings, that is images once for each variant.
        pending: encodings that are not committed yet.
    """

    uri: str
    spec: RunSpec
    created_at: str
    ncbatch_version: str
    planned: int
    pending: int

    @property
    def models(self) -> list[str]:
        """The names of the models, each once."""
        return sorted({variant.model for variant in self.spec.variants if variant.model})

    @property
    def methods(self) -> list[str]:
        """The names of the methods and codecs, each once."""
        return sorted({variant.recipe.method for variant in self.spec.variants})


@dataclass(frozen=True)
class Amount:
    """Bytes before and after, over the ok rows of a run or of one variant.

    Attributes:
        bytes_in: of the originals' files, once for each encoding.
        bytes_out: of the bitstreams.
    """

    bytes_in: int
    bytes_out: int

    @property
    def saved_percent(self) -> float | None:
        """How much smaller the bitstreams are than the originals' files; None where there is nothing to
        compare.
        """
        return 100 * (1 - self.bytes_out / self.bytes_in) if self.bytes_in else None


@dataclass(frozen=True)
class VariantTotals:
    """Totals over the rows of one variant."""

    variant: str
    ok: int
    failed: int
    amount: Amount
    device_seconds: float | None


@dataclass(frozen=True)
class Overview:
    """Totals over a run.

    Means are over the ok rows, that of the PSNR without the images that came back exactly.

    Attributes:
        noted: ok rows with a remark, for instance that their refinement was given up.
        exact: ok rows whose image came back exactly.
        amount: with the originals' bytes once for each encoding.
        original_bytes: with the originals' bytes once for each image.
        first: when the first image was begun.
        last: when the last image was done.
    """

    images: int
    ok: int
    failed: int
    noted: int
    exact: int
    amount: Amount
    original_bytes: int
    megapixels: float
    device_seconds: float | None
    bpp: float | None
    psnr: float | None
    ms_ssim: float | None
    first: datetime | None
    last: datetime | None
    hosts: int
    variants: tuple[VariantTotals, ...]

    @property
    def wall_seconds(self) -> float | None:
        """From the beginning of the first image to the end of the last, with pauses between two drivers."""
        return (self.last - self.first).total_seconds() if self.first and self.last else None


def read_facts(output: Store) -> RunFacts:
    """Reads what a run was asked to do.

    Raises:
        RunError: the folder holds no run, or its plan is damaged.
    """
    stored = read_run(output)
    plan = count_plan(stored, output, committed_units(output))
    about = output.uri, stored.spec, stored.created_at, stored.ncbatch_version
    return RunFacts(*about, planned=plan.images, pending=plan.pending)


def read_overview(rows: Rows) -> Overview:
    """The totals over the rows of a run."""
    variants = tuple(
        VariantTotals(row["variant"], row["ok"], row["failed"], _amount(row), row["device_seconds"])
        for row in rows.select(_BY_VARIANT)
    )
    # With one variant an image has one row: telling images apart would hold all of their keys.
    alone = len(variants) < 2
    found = rows.one(_TOTALS)
    if not alone:
        found["images"] = rows.one(_DISTINCT.format(column="image_key"))["count"]
    found["hosts"] = rows.one(_DISTINCT.format(column="host"))["count"]
    amount = _amount(found)
    del found["bytes_in"], found["bytes_out"]
    found["megapixels"] = found["megapixels"] or 0.0
    original_bytes = amount.bytes_in if alone else int(rows.one(_ORIGINALS)["bytes"] or 0)
    return Overview(**found, amount=amount, original_bytes=original_bytes, variants=variants)


def _amount(row: dict[str, Any]) -> Amount:
    return Amount(int(row["bytes_in"] or 0), int(row["bytes_out"] or 0))
