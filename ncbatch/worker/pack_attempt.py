"""One attempt at a unit of a bits-back variant: its images become one pack."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from ncbatch import layout
from ncbatch.codec.bits_back.encode import PackCandidate, VerifiedPack
from ncbatch.codec.codecs import PackCoder
from ncbatch.codec.errors import DivergedError, PackCheckError
from ncbatch.metrics.failures import Failure
from ncbatch.metrics.schema import Row
from ncbatch.plan.spec import Variant
from ncbatch.plan.units import PlannedImage, Unit
from ncbatch.telemetry import instruments
from ncbatch.worker.batches import (
    OUT_OF_MEMORY,
    Batches,
    BatchResult,
    Refill,
    failure_of,
    memory_failure,
    refined,
)
from ncbatch.worker.batching import FixedBatches
from ncbatch.worker.fetch import FetchedImage, Opened, images_ahead
from ncbatch.worker.rows import RowWriter, Work
from ncbatch.worker.workspace import Workspace

log = logging.getLogger(__name__)


class PackAttempt:
    """One execution of a unit by one worker; nothing is published before all images are in the pack."""

    def __init__(
        self, workspace: Workspace, coder: PackCoder, variant: Variant, unit: Unit, attempt: str
    ) -> None:
        self._workspace, self._coder, self._variant = workspace, coder, variant
        self._unit = unit
        self._writer = RowWriter(variant, unit, attempt, str(workspace.device))
        self.tracer = workspace.tracer(unit)
        self.wip = workspace.wip(unit)
        self.progress = workspace.progress(unit, attempt)
        self._started_at = datetime.now(timezone.utc)

    def rows(
        self, images: Sequence[PlannedImage], poisoned: Mapping[str, Failure]
    ) -> Generator[Row, None, None]:
        """One row per image."""
        early: list[Row] = []
        good: dict[str, _Good] = {}
        fetching = images_ahead(self._workspace.images.open, self._variant, poisoned, self._workspace.bounds)
        ordered = self._workspace.ordered(images)
        self._workspace.images.expect(image for image in ordered if image.key not in poisoned)
        with fetching:
            opened = fetching.of(ordered)
            for done in self._found(images, self._jobs(opened, early)):
                if isinstance(done, _Good):
                    good[done.job.image.key] = done
                else:
                    yield self._writer.failed(done.job.image, done.failure)
        yield from early
        order = {image.key: place for place, image in enumerate(images)}
        yield from self._packed(sorted(good.values(), key=lambda g: order[g.job.image.key]))

    def complete(self, rows: Sequence[Row]) -> None:
        """Changes nothing: the pack was published before there were rows."""

    def probe(self, image: PlannedImage) -> None:
        """Finds what a later attempt packs, and keeps it."""
        _, job = self._workspace.images.open(image, self._variant)
        if isinstance(job, FetchedImage):
            for done in self._found([image], [job]):
                log.info("probed %s: %s", image.key, "ok" if isinstance(done, _Good) else "failed")

    def _jobs(self, opened: Iterable[Opened], early: list[Row]) -> Iterator[FetchedImage]:
        """The images that could be opened; rows of the others go to `early`."""
        for image, job in opened:
            self.progress.alive()
            self.progress.go_on()
            if isinstance(job, Failure):
                early.append(self._writer.failed(image, job))
            else:
                yield job

    def _packed(self, good: list[_Good]) -> Iterator[Row]:
        """Rows of images that become a pack, less those that do not decode or fit in memory."""
        while good:
            try:
                with instruments.BUSY_SECONDS.seconds():
                    packed = self._coder.pack([g.found for g in good])
            except PackCheckError as error:
                unfit, failure = error.image, failure_of(error)
            except (MemoryError, RuntimeError) as error:
                unfit = max(range(len(good)), key=lambda i: good[i].job.pixels.size)
                failure = memory_failure(error, self._workspace.device)
            else:
                yield from self._published(good, packed)
                return
            yield self._writer.failed(good.pop(unfit).job.image, failure)

    def _published(self, good: Sequence[_Good], packed: VerifiedPack) -> Iterator[Row]:
        data, output = packed.pack.data, self._workspace.output
        key = layout.pack_key(self._unit.variant, self._unit.id, hashlib.sha256(data).hexdigest())
        adopted = output.head(key) is not None  # an attempt published it that died before it could commit
        output.put(key, data)
        for i, g in enumerate(good):
            notes = [g.note] if g.note else []
            if i in packed.plain:
                notes.append("coded without bits-back: it failed the decode check with it")
            work = Work(
                self._started_at,
                batch_size=g.batch_size,
                adopted=adopted,
                method=g.found.method,
                note="; ".join(notes) or None,
            )
            yield self._writer.ok(g.job, packed.encoded[i], key, work, packed.pack.shares[i].offset)

    def _found(self, images: Sequence[PlannedImage], jobs: Iterable[FetchedImage]) -> Iterator[_Good | _Bad]:
        """What every image becomes, in any order."""
        kept = self.wip.kept(images)
        known: list[FetchedImage] = []
        rest: list[FetchedImage] = []

        def unknown() -> Iterator[FetchedImage]:
            for job in jobs:
                (known if job.image.key in kept else rest).append(job)
                if job.image.key not in kept:
                    yield job

        failed: dict[str, Failure] = {}
        batching, device = self._workspace.batching(self._variant), self._workspace.device
        batches = Batches(batching, device, self._find)
        for done in batches.done(unknown(), self.wip.interrupted()):
            if isinstance(done.result, Failure) and self._falls_back(done.result):
                failed[done.job.image.key] = done.result
            else:
                yield _told(done)

        def restore(jobs: Sequence[FetchedImage], refill: Refill) -> Iterator[tuple[int, PackCandidate]]:
            for number, job in enumerate(jobs):
                yield number, self._coder.restored(job.pixels, kept[job.image.key])

        for done in Batches(FixedBatches(1), device, restore).done(known):
            yield _told(done)
        without = Batches(FixedBatches(1), device, self._unrefined)
        for done in without.done(j for j in rest if j.image.key in failed):
            why = failed[done.job.image.key].error
            yield _told(done, note=f"fell back to the encoder network's latents: {why}")

    def _falls_back(self, failure: Failure) -> bool:
        refines = self._variant.recipe.refines
        return self._variant.fall_back and refines and failure.error_class != OUT_OF_MEMORY

    def _find(
        self, jobs: Sequence[FetchedImage], refill: Refill
    ) -> Iterator[tuple[int, PackCandidate | DivergedError]]:
        for number, found in refined(self._coder.find, jobs, refill, self.wip, self.tracer, self.progress):
            if self._coder.recipe.total_steps and not isinstance(found, DivergedError):
                self.wip.keep(jobs[number].image, found.state())
            yield number, found

    def _unrefined(self, jobs: Sequence[FetchedImage], refill: Refill) -> Iterator[tuple[int, PackCandidate]]:
        yield from enumerate(self._coder.unrefined([job.pixels for job in jobs]))


@dataclass(frozen=True)
class _Good:
    """An image that can be packed."""

    job: FetchedImage
    found: PackCandidate
    batch_size: int
    note: str | None


@dataclass(frozen=True)
class _Bad:
    job: FetchedImage
    failure: Failure


def _told(done: BatchResult[PackCandidate], note: str | None = None) -> _Good | _Bad:
    if isinstance(done.result, Failure):
        return _Bad(done.job, done.result)
    return _Good(done.job, done.result, done.batch_size, note)
