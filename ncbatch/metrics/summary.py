"""A table in a few numbers, for status lines and for the driver's progress."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pyarrow as pa

from ncbatch.metrics.objects import find_objects
from ncbatch.metrics.parts import SUMMED, UnitSums
from ncbatch.metrics.schema import Row
from ncbatch.metrics.unit_result import CommittedUnit, UnitResult
from ncbatch.store import Store

if TYPE_CHECKING:
    from ncbatch.metrics.query import OpenTable

_BY_UNIT = """
select unit, variant, count(*) filter (status = 'ok') as ok, count(*) filter (status <> 'ok') as failed,
       coalesce(sum(bpp) filter (status = 'ok'), 0) as bpp,
       coalesce(sum(psnr) filter (status = 'ok' and not isinf(psnr)), 0) as psnr,
       count(*) filter (status = 'ok' and isinf(psnr)) as exact,
       cast(coalesce(sum(image_bytes) filter (status = 'ok'), 0) as bigint) as image_bytes,
       cast(coalesce(sum(length) filter (status = 'ok'), 0) as bigint) as length
from metrics
where not exists (select 1 from _again
                  where _again.variant = metrics.variant and _again.image_key = metrics.image_key)
group by unit, variant
"""


@dataclass(frozen=True)
class Summary:
    """Counts and means of a table.

    Attributes:
        mean_psnr: in dB, without the images that came back exactly, whose infinite PSNR would hide all
            others; like the other means it is over the ok rows, and None without any.
        variants: the same by variant, where there are several.
    """

    ok: int
    failed: int
    mean_bpp: float | None
    mean_psnr: float | None
    image_bytes: int
    bitstream_bytes: int
    variants: dict[str, Summary] = field(default_factory=dict)


def summarise(output: Store, *, exclusive: bool | None = None) -> Summary:
    """Summarises the table of the run in an output folder.

    Args:
        output: the run's folder.
        exclusive: as of `find_objects`.
    """
    objects = find_objects(output, exclusive=exclusive)
    if objects.versions == "one":
        return summary_of_units(objects.sums(output))
    from ncbatch.metrics.query import open_table  # here, since DuckDB is slow to import

    with open_table(output, objects) as table:
        return summary_of_units(newest_results(table))


def summary_of_units(units: Iterable[UnitSums]) -> Summary:
    """The summary of what the rows of some units add up to."""
    variants: dict[str, list[float]] = {}
    for _, variant, result in units:
        sums = variants.setdefault(variant, [0] * len(SUMMED))
        for place, name in enumerate(SUMMED):
            sums[place] += getattr(result, name)
    return summary_of({name: UnitResult(*sums) for name, sums in variants.items()})  # type: ignore[arg-type]


def summary_of(variants: dict[str, UnitResult]) -> Summary:
    """The summary of some rows that were added up by variant."""
    names = sorted(variants)
    whole = _summary(added(variants.values()))
    if len(names) < 2:
        return whole
    return replace(whole, variants={name: _summary(variants[name]) for name in names})


def added(results: Iterable[UnitResult]) -> UnitResult:
    """The sum of several results."""
    found = list(results)
    return UnitResult(**{name: sum(getattr(result, name) for result in found) for name in SUMMED})


def _summary(result: UnitResult) -> Summary:
    inexact = result.ok - result.exact
    return Summary(
        ok=result.ok,
        failed=result.failed,
        mean_bpp=result.bpp / result.ok if result.ok else None,
        mean_psnr=result.psnr / inexact if inexact else None,
        image_bytes=result.image_bytes,
        bitstream_bytes=result.length,
    )


def newest_results(table: OpenTable, again: Collection[tuple[str, str]] = ()) -> Iterable[UnitSums]:
    """What each unit's rows add up to, of which only the newest of each image counts.

    Args:
        table: of a run.
        again: variants and keys of images that do not count, since they are to be done again.
    """
    keys = list(again)
    columns = {"variant": [key[0] for key in keys], "image_key": [key[1] for key in keys]}
    beside = pa.table({name: pa.array(column, pa.string()) for name, column in columns.items()})
    found = table.query(_BY_UNIT, {"_again": beside})
    rows = zip(*(found[name].to_pylist() for name in ("unit", "variant", *SUMMED)), strict=True)
    return ((unit, variant, UnitResult(*result)) for unit, variant, *result in rows)


def unit_result(rows: Iterable[Row]) -> CommittedUnit:
    """The rows of one unit, added up."""
    rows = list(rows)
    ok = [row for row in rows if row.status == "ok"]
    return CommittedUnit(
        ok=len(ok),
        failed=len(rows) - len(ok),
        bpp=sum(row.bpp or 0 for row in ok),
        psnr=sum(row.psnr or 0 for row in ok if row.psnr != math.inf),
        exact=sum(row.psnr == math.inf for row in ok),
        image_bytes=sum(row.image_bytes for row in ok),
        length=sum(row.length or 0 for row in ok),
        classes=Counter(row.error_class for row in rows if row.error_class),
    )
