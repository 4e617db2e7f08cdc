"""How much of a run is done: counted by the driver, shown on the console, kept in `status.json`."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Literal

import pydantic

from ncbatch import layout
from ncbatch.driver.forecast import Forecast
from ncbatch.driver.health import Place, Quarantine
from ncbatch.metrics.unit_result import CommittedUnit, UnitResult
from ncbatch.store import ObjectNotFound, Store

RunState = Literal[
    "planning", "starting", "running", "paused", "finishing", "finished", "interrupted", "stopped"
]


class VariantCount(pydantic.BaseModel, frozen=True):
    """One variant's part of a snapshot. Means are over its ok images, None without any.

    exact: ok images that came back exactly, which have no part in mean_psnr; image_bytes, bitstream_bytes: of
        the ok images.
    """

    name: str
    images: int
    ok: int = 0
    failed: int = 0
    mean_bpp: float | None = None
    mean_psnr: float | None = None
    exact: int = 0
    image_bytes: int = 0
    bitstream_bytes: int = 0


class PlanCounts(pydantic.BaseModel, frozen=True):
    """The plan that a driver works by. generation: the latest; inputs: images of the corpus."""

    generation: int
    units: int
    inputs: int


class KeptFromWork(pydantic.BaseModel, frozen=True):
    """A node, or a device of it, that fails what others do.

    failures: units and trials in a row. reason: of the last.
    """

    node: str
    host: str
    device: str
    failures: int
    reason: str

    @property
    def quarantine(self) -> Quarantine:
        """The same, for the decisions of a driver."""
        return Quarantine(Place(self.node, self.device, self.host), self.failures, self.reason)

    @property
    def name(self) -> str:
        """For people."""
        return self.quarantine.place.name


class UnitInFlight(pydantic.BaseModel, frozen=True):
    """A unit that a worker is at.

    images: of the unit. worker: its place, for people. fraction: of the unit's work that is done, 0 to 1;
        None until the worker has told. seconds: since the worker was given it.
    """

    unit: str
    variant: str
    images: int
    worker: str
    fraction: float | None
    seconds: float


SHOWN_UNITS = 64
"""Units in flight that a snapshot names at most."""


class Snapshot(pydantic.BaseModel, frozen=True):
    """One moment of a run. Images count once per variant: as encodings.

    fraction: of the work, from 0 to 1, images in flight by their steps; None while nothing is known.
    images_per_second: of this session, None before the first commit; eta_seconds: from the calibration at
        first, then from the workers' pace; of a run that is finishing, until the units in flight are done.
    committed_units: of the plan's.
    plan: None before the driver knows it.
    mean_bpp, mean_psnr: over the ok images of all sessions, the latter without those that came back exactly;
        None where there are several variants, of which they would mean nothing.
    quarantined: places that get no work until they pass a trial.
    reason: why the run ends, or has ended, before all is done; empty where nobody has told.
    worker_seconds: for which workers have been there, in all sessions, idle or not: what is paid for.
    failures: failed rows by error class, of what this session committed.
    busy_workers, images_in_flight: workers that are at a unit, and the images of these units.
    in_flight: the units, those that are longest at work first, and no more than SHOWN_UNITS.
    """

    state: RunState
    images: int = 0
    ok: int = 0
    failed: int = 0
    pending: int = 0
    resumed: int = 0
    mean_bpp: float | None = None
    mean_psnr: float | None = None
    fraction: float | None = None
    images_per_second: float | None = None
    eta_seconds: float | None = None
    workers: int = 0
    elapsed_seconds: float = 0.0
    updated_at: datetime
    driver: str = ""
    variants: tuple[VariantCount, ...] = ()
    quarantined: tuple[KeptFromWork, ...] = ()
    committed_units: int = 0
    plan: PlanCounts | None = None
    reason: str = ""
    worker_seconds: float = 0.0
    failures: dict[str, int] = {}
    busy_workers: int = 0
    images_in_flight: int = 0
    in_flight: tuple[UnitInFlight, ...] = ()

    @property
    def is_over(self) -> bool:
        """Whether the driver has ended that wrote it."""
        return self.state in ("finished", "interrupted", "stopped")

    @property
    def time_left(self) -> float | None:
        """Seconds until the end, where that is worth saying: something is left to do, somebody is at it, and
        it is known to take half a second or more.
        """
        if not self.pending or self.is_over or self.eta_seconds is None or self.eta_seconds < 0.5:
            return None
        return self.eta_seconds

    @property
    def noun(self) -> str:
        """What is counted: an image that several variants encode is several encodings."""
        return "encodings" if len(self.variants) > 1 else "images"


@dataclass
class _Count:
    images: int
    ok: int = 0
    failed: int = 0
    bpp: float = 0.0
    psnr: float = 0.0
    exact: int = 0
    image_bytes: int = 0
    length: int = 0

    def told(self, name: str) -> VariantCount:
        inexact = self.ok - self.exact
        return VariantCount(
            name=name,
            images=self.images,
            ok=self.ok,
            failed=self.failed,
            mean_bpp=self.bpp / self.ok if self.ok else None,
            mean_psnr=self.psnr / inexact if inexact else None,
            exact=self.exact,
            image_bytes=self.image_bytes,
            bitstream_bytes=self.length,
        )


class Progress:
    """Counts commits.

    Args:
        images: of the whole plan, by variant.
        forecast: of this session's work.
    """

    def __init__(self, images: Mapping[str, int], forecast: Forecast) -> None:
        self._counts = {variant: _Count(count) for variant, count in images.items()}
        self.forecast = forecast
        self._resumed = 0
        self._started = time.monotonic()
        self.state: RunState = "starting"
        self.workers = 0
        self.quarantined: Sequence[Quarantine] = ()
        self.plan: PlanCounts | None = None
        self.in_flight: Sequence[UnitInFlight] = ()
        self.reason = ""
        self.worker_seconds = 0.0
        self._failures: Counter[str] = Counter()
        self._committed_units = 0

    def add(self, variant: str, result: UnitResult, *, resumed: bool = False) -> None:
        """Counts a unit's commit."""
        count = self._counts[variant]
        count.ok += result.ok
        count.failed += result.failed
        count.bpp += result.bpp
        count.psnr += result.psnr
        count.exact += result.exact
        count.image_bytes += result.image_bytes
        count.length += result.length
        self._committed_units += 1
        if isinstance(result, CommittedUnit):
            self._failures.update(result.classes)
        if resumed:
            self._resumed += result.ok + result.failed

    def snapshot(self, driver: str = "") -> Snapshot:
        """The counts at this moment, for the console and `status.json`."""
        elapsed, forecast = time.monotonic() - self._started, self.forecast
        variants = tuple(count.told(name) for name, count in self._counts.items())
        images, ok, failed = (sum(getattr(v, n) for v in variants) for n in ("images", "ok", "failed"))
        here = ok + failed - self._resumed
        alone = variants[0] if len(variants) == 1 else None
        return Snapshot(
            state=self.state,
            images=images,
            ok=ok,
            failed=failed,
            pending=max(images - ok - failed, 0),
            resumed=self._resumed,
            mean_bpp=alone and alone.mean_bpp,
            mean_psnr=alone and alone.mean_psnr,
            fraction=forecast.fraction,
            images_per_second=here / elapsed if here and elapsed else None,
            eta_seconds=forecast.flight_seconds if self.state == "finishing" else forecast.eta_seconds,
            workers=self.workers,
            elapsed_seconds=elapsed,
            updated_at=datetime.now(timezone.utc),
            driver=driver,
            variants=variants,
            quarantined=tuple(
                KeptFromWork(
                    node=one.place.node,
                    host=one.place.host,
                    device=one.place.device,
                    failures=one.failures,
                    reason=one.reason,
                )
                for one in self.quarantined
            ),
            committed_units=self._committed_units,
            plan=self.plan,
            reason=self.reason,
            worker_seconds=self.worker_seconds,
            failures=dict(self._failures.most_common()),
            busy_workers=len(self.in_flight),
            images_in_flight=sum(unit.images for unit in self.in_flight),
            in_flight=tuple(sorted(self.in_flight, key=lambda unit: -unit.seconds)[:SHOWN_UNITS]),
        )


def announce(output: Store, state: RunState, driver: str) -> None:
    """Writes into `status.json` that a driver is up, before it can count anything.

    What earlier sessions were paid for is taken over, and which places they kept from work.
    """
    said, now = read_status(output), datetime.now(timezone.utc)
    snapshot = Snapshot(
        state=state,
        updated_at=now,
        driver=driver,
        worker_seconds=said.worker_seconds if said is not None else 0.0,
        quarantined=said.quarantined if said is not None else (),
    )
    write_status(output, snapshot)


def end_early(output: Store, driver: str, state: RunState) -> None:
    """Brings `status.json` up to date for a driver that ends before it has driven; deletes it where no run
    was planned.
    """
    said = read_status(output)
    if said is None or said.driver != driver or said.state not in ("planning", "starting"):
        return
    if output.head(layout.RUN) is None:
        output.delete(layout.STATUS)
    else:
        announce(output, state, driver)


def write_status(output: Store, snapshot: Snapshot) -> None:
    """Writes `status.json`."""
    output.put(layout.STATUS, snapshot.model_dump_json().encode())


def read_status(output: Store) -> Snapshot | None:
    """The driver's last snapshot, or None where there is none. It is advisory: the commits are the truth."""
    try:
        return Snapshot.model_validate_json(output.get(layout.STATUS))
    except (ObjectNotFound, pydantic.ValidationError):
        return None
