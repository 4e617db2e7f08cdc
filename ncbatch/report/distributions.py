"""How rates, distortions and times are spread over the images of each variant."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from ncbatch.report.rows import SAVED_PERCENT, Rows

LEVELS = (1, 5, 25, 50, 75, 95, 99)
"""Percentiles."""

FEWEST = 20
"""Images of a variant below which its spread says nothing that a list of them does not."""

EXACT_ROWS = 2_000_000
"""Of more rows, percentiles are approximated by a t-digest (to about 0.02 % of their value): exact ones hold
all values in memory.
"""

_BINS = 40

_PERCENTILES = """
select variant, count(x) as count, avg(x) as mean, min(x) as lowest, max(x) as highest,
       {quantile}(x, [{levels}]) as percentiles
from (select variant, {expression} as x from metrics where status = 'ok')
where x is not null and isfinite(x) group by variant having count(x) >= {fewest} order by variant
"""

_RANGE = """
select min(x) as lowest, max(x) as highest, {quantile}(x, [0.005, 0.995]) as most, count(*) as count
from (select {expression} as x from metrics where status = 'ok') where x is not null and isfinite(x)
"""

_COUNTS = """
select variant, least(cast(floor((x - {low!r}) / {width!r}) as int), {bins} - 1) as bin, count(*) as count
from (select variant, cast({expression} as double) as x from metrics where status = 'ok')
where x between {low!r} and {high!r} group by all
"""


@dataclass(frozen=True)
class Quantity:
    """A quantity that each ok row has.

    Attributes:
        name: of the column on the page.
        title: for headings.
        unit: for axes.
        expression: in SQL; rows without a finite value are left out.
    """

    name: str
    title: str
    unit: str
    expression: str


QUANTITIES = (
    Quantity("bpp", "Rate", "bits per pixel", "bpp"),
    Quantity("psnr", "PSNR", "dB", "psnr"),
    Quantity("ms_ssim", "MS-SSIM", "", "ms_ssim"),
    Quantity("seconds", "Device time per image", "s", "device_seconds"),
    Quantity("saved", "R-D loss saved by refinement", "%", SAVED_PERCENT),
)


@dataclass(frozen=True)
class Spread:
    """How a quantity is spread over one variant's images.

    Attributes:
        percentiles: the quantity at each of LEVELS.
    """

    variant: str
    count: int
    mean: float
    lowest: float
    highest: float
    percentiles: tuple[float, ...]


@dataclass(frozen=True)
class Histogram:
    """A histogram of several variants.

    Attributes:
        edges: of the bins.
        counts: images in each bin, by variant.
        outside: rows below the first edge or above the last.
    """

    edges: tuple[float, ...]
    counts: dict[str, tuple[int, ...]]
    outside: int


@dataclass(frozen=True)
class Distribution:
    """A quantity over the variants of a run.

    Attributes:
        spreads: of each variant.
        histogram: None where there are so many variants that their outlines would hide each other.
    """

    quantity: Quantity
    spreads: tuple[Spread, ...]
    histogram: Histogram | None


def read_distributions(rows: Rows, *, drawn: int = 4) -> list[Distribution]:
    """The distribution of every quantity that the rows have, over the variants with at least FEWEST images.

    Args:
        rows: of the run.
        drawn: how many variants one histogram shows at most.
    """
    found = []
    many = rows.one("select count(*) as count from metrics")["count"] > EXACT_ROWS
    quantile = "approx_quantile" if many else "quantile_cont"
    for quantity in QUANTITIES:
        levels = ", ".join(f"{level / 100!r}" for level in LEVELS)
        sql = _PERCENTILES.format(
            levels=levels, expression=quantity.expression, fewest=FEWEST, quantile=quantile
        )
        spreads = tuple(
            Spread(**{**row, "percentiles": tuple(row["percentiles"])}) for row in rows.select(sql)
        )
        if not spreads or all(spread.lowest == spread.highest == 0 for spread in spreads):
            continue  # nothing was refined, or nothing that has this quantity is done yet
        variants = [spread.variant for spread in spreads]
        histogram = _histogram(rows, quantity, variants, quantile) if len(variants) <= drawn else None
        found.append(Distribution(quantity, spreads, histogram))
    return found


def _histogram(rows: Rows, quantity: Quantity, variants: Sequence[str], quantile: str) -> Histogram:
    found = rows.one(_RANGE.format(expression=quantity.expression, quantile=quantile))
    low, high = _shown_range(found["lowest"], found["highest"], *found["most"])
    bins = min(_BINS, max(8, math.isqrt(found["count"])))
    width = (high - low) / bins
    counts: dict[str, list[int]] = defaultdict(lambda: [0] * bins)
    sql = _COUNTS.format(expression=quantity.expression, low=low, high=high, width=width, bins=bins)
    for row in rows.select(sql):
        counts[row["variant"]][row["bin"]] = row["count"]
    edges = tuple(low + width * i for i in range(bins + 1))
    inside = sum(map(sum, counts.values()))
    return Histogram(edges, {name: tuple(counts[name]) for name in variants}, found["count"] - inside)


def _shown_range(lowest: float, highest: float, low: float, high: float) -> tuple[float, float]:
    """The range of a histogram: all values, or 99 % of them where a few lie far from the rest."""
    spread = high - low
    low = lowest if low - lowest <= spread / 4 else low
    high = highest if highest - high <= spread / 4 else high
    if low == high:
        margin = abs(low) / 100 or 1.0
        return low - margin, high + margin
    return low, high
