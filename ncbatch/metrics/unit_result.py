"""What a unit's commit holds, added up. Light: telling how far a run is needs no tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class UnitResult:
    """What a unit's commit holds, added up for the driver's progress.

    Attributes:
        ok: ok rows.
        failed: failed rows.
        bpp: sum over the ok rows.
        psnr: sum in dB over the ok rows, without those whose image came back exactly.
        exact: ok rows whose image came back exactly; their PSNR is infinite.
        image_bytes: of the ok rows' images.
        length: of the ok rows' bitstreams, in bytes.
    """

    ok: int
    failed: int
    bpp: float
    psnr: float
    exact: int = 0
    image_bytes: int = 0
    length: int = 0


@dataclass(frozen=True, slots=True)
class CommittedUnit(UnitResult):
    """What became of a unit that was done.

    Attributes:
        classes: failed rows by error class.
        found: whether the commit of another attempt stood already.
    """

    classes: Mapping[str, int] = field(default_factory=dict)
    found: bool = False
