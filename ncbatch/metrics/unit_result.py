"""What a unit's commit holds, summed up. Light: telling how far a run is needs no tables."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class UnitResult:
    """What a unit's commit holds, summed up for the driver's progress.

    bpp: sum over the ok rows. exact: ok rows whose image came back exactly; their PSNR is infinite and
    left out of the sum `psnr`.
    """

    ok: int
    failed: int
    bpp: float
    psnr: float
    exact: int = 0
