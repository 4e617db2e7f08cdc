"""The images at both ends of a run, which are worth looking at one by one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ncbatch.metrics.sql import quoted
from ncbatch.report.rows import SAVED_PERCENT, Rows

SHOWN = 50
"""Rows of each ranking."""

ALL = 150
"""Runs with so many ok rows at most are shown whole."""

_ROW = f"""
select image_key, variant, method, model, lmbda, steps, width, height, image_bytes, length,
       100 * length / nullif(image_bytes, 0) as share, bpp, psnr,
       ms_ssim, rd_loss, {SAVED_PERCENT} as saved, device_seconds, host, error as remark, bitstream_key
from metrics where status = 'ok'
"""

ALL_ROWS = f"{_ROW} order by image_key, variant"
"""Every ok row, for a file beside the page."""

MANY_ROWS = _ROW
"""The same in any order: many rows are not sorted, which would take memory."""

# What decodes an image and says what it was.
_IMAGE = """
select image_key, variant, status, model_digest, bitstream_key, "offset", length, sha256, width, height, bpp,
       psnr, ms_ssim, error
from metrics where status = 'ok' and variant = {variant}
"""


@dataclass(frozen=True)
class Ranking:
    """The first images of an order.

    Attributes:
        name: of the order.
        title: for the page.
        rows: dictionaries with the columns of `_ROW`.
    """

    name: str
    title: str
    rows: list[dict[str, Any]]


# Name, title, what is ordered by, what is needed for it.
_ORDERS = (
    ("psnr", "lowest PSNR", "psnr", "psnr"),
    ("ms_ssim", "lowest MS-SSIM", "ms_ssim", "ms_ssim"),
    ("bpp", "most bits per pixel", "bpp desc", "bpp"),
    ("share", "largest share of the original's bytes", "share desc", "share"),
    ("saved", "least saved by refinement", "saved", "saved"),
    ("seconds", "longest on a device", "device_seconds desc", "device_seconds"),
    ("best", "highest PSNR", "psnr desc", "psnr"),
)


def read_rankings(rows: Rows, ok: int) -> list[Ranking]:
    """The first images of each order that says something; of a small run one ranking of all images.

    Args:
        rows: of the run.
        ok: how many of them are ok.
    """
    if ok <= ALL:
        return [Ranking("all", "all images", rows.select(ALL_ROWS))]
    return list(_ends(rows))


def _ends(rows: Rows) -> Iterator[Ranking]:
    for name, title, order, needed in _ORDERS:
        found = rows.select(
            f"select * from ({_ROW}) where {needed} is not null "
            f"order by {order}, image_key, variant limit {SHOWN}"
        )
        # Where nothing was refined, nothing is saved, and no order is one.
        if found and not (name == "saved" and all(row["saved"] == 0 for row in found)):
            yield Ranking(name, title, found)


@dataclass(frozen=True)
class Group:
    """Images of one variant in the order of their PSNR.

    Attributes:
        title: for the page.
        rows: dictionaries with the columns of `_IMAGE`.
    """

    title: str
    rows: list[dict[str, Any]]


def read_groups(rows: Rows, variant: str, worst: int) -> list[Group]:
    """A variant's worst images, and half as many around the median and of the best; all images where there
    are few.

    Args:
        rows: of the run.
        variant: by name.
        worst: how many of the worst.
    """
    others = (worst + 1) // 2
    ranked = (
        "select *, row_number() over (order by psnr, image_key) as place, count(*) over () as total "
        f"from ({_IMAGE.format(variant=quoted(variant))})"
    )
    few = worst + 2 * others
    # Where the worst reach up to the middle, what follows them is the median.
    found = rows.select(
        f"select *, greatest((total - {others}) // 2, {worst}) as middle from ({ranked}) "
        f"where total <= {few} or place <= {worst} or place > total - {others} "
        f"or (place > middle and place <= middle + {others}) order by place"
    )
    if not found:
        return []
    total, median = found[0]["total"], found[0]["middle"]
    if total <= few:
        return [Group("All images, the lowest PSNR first", found)]
    return [
        Group("Lowest PSNR", [row for row in found if row["place"] <= worst]),
        Group("Median", [row for row in found if median < row["place"] <= median + others]),
        Group("Highest PSNR", [row for row in found if row["place"] > total - others]),
    ]
