"""How far a run is: counted by the driver, shown on the console, kept in `status.json`."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from typing import Literal

import pydantic

from ncbatch.runs import layout
from ncbatch.runs.results import UnitResult
from ncbatch.store import ObjectNotFound, Store

State = Literal["starting", "running", "finishing", "finished", "interrupted", "stopped"]


class Snapshot(pydantic.BaseModel, frozen=True):
    """One moment of a run. Images count once per variant.

    images_per_second: of this session; eta_seconds: weighted by pixels; both None before the first commit.
    mean_bpp, mean_psnr: over the ok images of all sessions, the latter without those that came back exactly.
    """

    state: State
    images: int
    ok: int
    failed: int
    pending: int
    resumed: int
    mean_bpp: float | None
    mean_psnr: float | None
    images_per_second: float | None
    eta_seconds: float | None
    workers: int
    elapsed_seconds: float
    updated_at: datetime
    driver: str = ""

    @property
    def is_over(self) -> bool:
        return self.state in ("finished", "interrupted", "stopped")


class Progress:
    """Counts commits.

    Args:
        images: of the whole plan; weight: its pixels, as far as known.
    """

    def __init__(self, images: int, weight: float) -> None:
        self._images, self._weight = images, weight
        self._ok = self._failed = self._resumed = self._exact = 0
        self._bpp = self._psnr = 0.0
        self._done_weight = self._session_weight = 0.0
        self._started = time.monotonic()
        self.state: State = "starting"
        self.workers = 0

    def add(self, result: UnitResult, weight: float, *, resumed: bool = False) -> None:
        """Counts a unit's commit; `weight` is its share of the plan's."""
        self._ok += result.ok
        self._failed += result.failed
        self._bpp += result.bpp
        self._psnr += result.psnr
        self._exact += result.exact
        self._done_weight += weight
        if resumed:
            self._resumed += result.ok + result.failed
        else:
            self._session_weight += weight

    @property
    def failed(self) -> int:
        return self._failed

    def snapshot(self, driver: str = "") -> Snapshot:
        elapsed = time.monotonic() - self._started
        done = self._ok + self._failed
        here = done - self._resumed
        inexact = self._ok - self._exact
        left = self._weight - self._done_weight
        return Snapshot(
            state=self.state,
            images=self._images,
            ok=self._ok,
            failed=self._failed,
            pending=max(self._images - done, 0),
            resumed=self._resumed,
            mean_bpp=self._bpp / self._ok if self._ok else None,
            mean_psnr=self._psnr / inexact if inexact else None,
            images_per_second=here / elapsed if here and elapsed else None,
            eta_seconds=left * elapsed / self._session_weight if self._session_weight else None,
            workers=self.workers,
            elapsed_seconds=elapsed,
            updated_at=datetime.now(timezone.utc),
            driver=driver,
        )


def write_status(output: Store, snapshot: Snapshot) -> None:
    output.put(layout.STATUS, snapshot.model_dump_json().encode())


def read_status(output: Store) -> Snapshot | None:
    """The driver's last snapshot, or None; advisory, the commits are the truth."""
    try:
        return Snapshot.model_validate_json(output.get(layout.STATUS))
    except (ObjectNotFound, pydantic.ValidationError):
        return None
