"""A table in a few numbers, for status lines."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import pyarrow as pa
import pyarrow.compute as pc

from ncbatch.metrics.schema import Row
from ncbatch.metrics.unit_result import UnitResult

SUMMARY_COLUMNS = ("variant", "status", "image_bytes", "length", "bpp", "psnr")


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


def summarise(table: pa.Table) -> Summary:
    """Summarises a table that has at least SUMMARY_COLUMNS."""
    names = sorted(pc.unique(table["variant"]).to_pylist())
    whole = _summary(table)
    if len(names) < 2:
        return whole
    parts = {name: _summary(table.filter(pc.equal(table["variant"], name))) for name in names}
    return replace(whole, variants=parts)


def _summary(table: pa.Table) -> Summary:
    # `starts_with`, since a comparison with a plain string loads pandas, which takes half a second.
    ok = table.filter(pc.starts_with(table["status"], pattern="ok"))
    psnr = ok["psnr"].filter(pc.is_finite(ok["psnr"]))
    return Summary(
        ok=len(ok),
        failed=len(table) - len(ok),
        mean_bpp=pc.mean(ok["bpp"]).as_py(),
        mean_psnr=pc.mean(psnr).as_py(),
        image_bytes=pc.sum(ok["image_bytes"]).as_py() or 0,
        bitstream_bytes=pc.sum(ok["length"]).as_py() or 0,
    )


def unit_result(rows: Iterable[Row]) -> UnitResult:
    """The rows of one unit, added up."""
    rows = list(rows)
    ok = [row for row in rows if row.status == "ok"]
    return UnitResult(
        ok=len(ok),
        failed=len(rows) - len(ok),
        bpp=sum(row.bpp or 0 for row in ok),
        psnr=sum(row.psnr or 0 for row in ok if row.psnr != math.inf),
        exact=sum(row.psnr == math.inf for row in ok),
    )
