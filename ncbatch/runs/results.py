"""What a unit's commit holds, summed up."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from ncbatch.metrics.schema import Row


@dataclass(frozen=True)
class UnitResult:
    """What a unit's commit holds, summed up for the driver's progress.

    bpp: sum over the ok rows. exact: ok rows whose picture came back exactly; their PSNR is infinite and
    left out of the sum `psnr`.
    """

    ok: int
    failed: int
    bpp: float
    psnr: float
    exact: int = 0

    @classmethod
    def of(cls, rows: Iterable[Row]) -> UnitResult:
        rows = list(rows)
        ok = [row for row in rows if row.status == "ok"]
        return cls(
            ok=len(ok),
            failed=len(rows) - len(ok),
            bpp=sum(row.bpp or 0 for row in ok),
            psnr=sum(row.psnr or 0 for row in ok if row.psnr != math.inf),
            exact=sum(row.psnr == math.inf for row in ok),
        )
