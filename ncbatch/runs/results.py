"""What a unit's commit holds, summed up."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ncbatch.metrics.schema import Row


@dataclass(frozen=True)
class UnitResult:
    """What a unit's commit holds, summed up for the driver's progress.

    bpp, psnr: sums over the ok rows; pixels: of the ok rows.
    """

    ok: int
    failed: int
    bpp: float
    psnr: float
    pixels: int

    @classmethod
    def of(cls, rows: Iterable[Row]) -> UnitResult:
        rows = list(rows)
        ok = [row for row in rows if row.status == "ok"]
        return cls(
            ok=len(ok),
            failed=len(rows) - len(ok),
            bpp=sum(row.bpp or 0 for row in ok),
            psnr=sum(row.psnr or 0 for row in ok),
            pixels=sum((row.width or 0) * (row.height or 0) for row in ok),
        )
