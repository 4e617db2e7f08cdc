"""One attempt at a unit of files: from planned images to rows, with the bitstreams published on the way."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import partial

import torch

from ncbatch.codec import bitstream
from ncbatch.codec.carrying import carrying, found_carrying, without_carried
from ncbatch.codec.codecs import Coder, Finish, LearnedCoder, TargetCoder
from ncbatch.codec.encode import Encoded
from ncbatch.codec.errors import DecodeCheckError, DivergedError
from ncbatch.codec.recipe import RefinedRecipe
from ncbatch.metrics.failures import Failure
from ncbatch.metrics.schema import Row
from ncbatch.plan.spec import Variant
from ncbatch.plan.units import PlannedImage, Unit
from ncbatch.stages import Behind
from ncbatch.worker.batches import (
    OUT_OF_MEMORY,
    Batches,
    BatchResult,
    Refill,
    failure_of,
    memory_failure,
    refined,
)
from ncbatch.worker.fetch import FetchedImage, Opened, images_ahead
from ncbatch.worker.publish import FilePublisher, Publisher
from ncbatch.worker.rows import RowWriter, Work
from ncbatch.worker.tar_publish import TarPublisher
from ncbatch.worker.workspace import Workspace

log = logging.getLogger(__name__)

_UNREFINED = "amortized"  # the method of a bitstream by the encoder network alone


class Attempt:
    """One execution of a unit by one worker."""

    def __init__(
        self, workspace: Workspace, coder: Coder, variant: Variant, unit: Unit, attempt: str
    ) -> None:
        self._workspace, self._coder, self._variant = workspace, coder, variant
        self._writer = RowWriter(variant, unit, attempt, str(workspace.device))
        self.tracer = workspace.tracer(unit)
        self.wip = workspace.wip(unit)
        self._publisher = self._new_publisher(unit, attempt)
        self.progress = workspace.progress(unit, attempt)

    def _new_publisher(self, unit: Unit, attempt: str) -> Publisher:
        workspace, suffix = self._workspace, self._variant.recipe.suffix
        if workspace.spec.output_format == "tar":
            seconds = workspace.options.wip_seconds
            return TarPublisher(workspace.output, unit, attempt, suffix, self.wip, seconds)
        return FilePublisher(workspace.output, unit, attempt, suffix, workspace.spec)

    def rows(
        self, images: Sequence[PlannedImage], poisoned: Mapping[str, Failure]
    ) -> Generator[Row, None, None]:
        """One row per image, as they get done; images that may share tensors go in batches.

        Latents are found in the calling thread, while others fetch the next images and finish the last ones.
        """
        try:
            yield from self._rows(images, poisoned)
        except Exception:
            self._publisher.keep()
            raise

    def complete(self, rows: Sequence[Row]) -> None:
        """Publishes what rows of the whole unit, as `rows` gave them, still wait for."""
        self._publisher.complete(rows)

    def _rows(
        self, images: Sequence[PlannedImage], poisoned: Mapping[str, Failure]
    ) -> Generator[Row, None, None]:
        early: list[Row] = []
        workspace, bounds = self._workspace, self._workspace.bounds
        fetching = images_ahead(
            workspace.images.open, self._variant, poisoned, bounds, self._publisher.standing
        )
        finishing = Behind(self._finished, lambda done: done.job.area, bounds.finishers, bounds.behind)
        ordered = workspace.ordered(images)
        workspace.images.expect(image for image in ordered if image.key not in poisoned)
        with fetching, finishing:
            opened = fetching.of(ordered)
            batches = Batches(
                workspace.batching(self._variant),
                workspace.device,
                partial(self._find, partial(self._settle, finishing.make_room)),
                finishing.make_room,
                workspace.canvas,
            )
            jobs = self._jobs(opened, early)
            found = batches.done(jobs, self.wip.interrupted(), fetching.is_ready)
            for finished in finishing.after(found):
                if isinstance(finished, _OutOfMemory):
                    finishing.make_room()
                    yield self._once_more(finished.done)
                else:
                    yield finished
        yield from early

    def _settle(self, all_finished: Callable[[], object]) -> None:
        all_finished()
        self._publisher.keep()

    def probe(self, image: PlannedImage) -> None:
        """Does one image and publishes it, for a later attempt to adopt."""
        for row in self.rows([image], {}):
            log.info("probed %s: %s", row.image_key, row.status)
        self._publisher.keep()

    def _jobs(self, opened: Iterable[Opened], early: list[Row]) -> Iterator[FetchedImage]:
        """What there is to encode; rows of the other images go to `early`."""
        for image, job in opened:
            self.progress.alive()
            self.progress.go_on()
            if isinstance(job, Failure):
                early.append(self._writer.failed(image, job))
                continue
            row = self._adopted(job, job.standing)
            if row is None:
                yield replace(job, standing=())
            else:
                early.append(row)

    def _may_be_a_fallback(self, data: bytes) -> bool:
        """Whether a good bitstream does not tell what became of its image: refined in vain, or not refined
        because that fails. Doing it again is what tells; it ends with the same bytes.
        """
        variant = self._variant
        if not variant.fall_back or not isinstance(variant.recipe, RefinedRecipe):
            return False
        return bitstream.parse(data, max_pixels=variant.max_pixels).method == _UNREFINED

    def _adopted(self, job: FetchedImage, standing: Iterable[tuple[str, bytes]]) -> Row | None:
        """A row for a bitstream that an earlier attempt published before it could commit."""
        started = datetime.now(timezone.utc)
        for key, data in standing:
            encoded = self._measured(job, data)
            if encoded is not None and not self._may_be_a_fallback(data):
                key = self._publisher.adopt(job.image, key, data)
                return self._writer.ok(job, encoded, key, Work(started, adopted=True))
        return None

    def _measured(self, job: FetchedImage, data: bytes) -> Encoded | None:
        """Rate and distortion of a file that was found; None where it is not this image's by this variant."""
        if not job.carried:
            return self._coder.measured(job.pixels, data)
        alone = without_carried(data, job.carried, job.area)
        encoded = None if alone is None else self._coder.measured(job.pixels, alone)
        return None if encoded is None else found_carrying(encoded, data)

    def _find(
        self, settle: Callable[[], object], jobs: Sequence[FetchedImage], refill: Refill
    ) -> Iterator[tuple[int, Finish | DivergedError]]:
        find = self._coder.find
        return refined(find, jobs, refill, self.wip, self.tracer, self.progress, settle)

    def _finished(self, done: BatchResult[Finish]) -> Row | _OutOfMemory:
        """The row of an image whose latents are found, in any thread."""
        try:
            return self._row(done)
        except (MemoryError, RuntimeError) as error:
            memory_failure(error, self._workspace.device)
        return _OutOfMemory(done)

    def _once_more(self, done: BatchResult[Finish]) -> Row:
        """The row of an image for which there was too little memory beside others."""
        if self._workspace.device.type == "cuda":
            torch.cuda.empty_cache()
        try:
            return self._row(done)
        except (MemoryError, RuntimeError) as error:
            failure = memory_failure(error, self._workspace.device)
        return self._writer.failed(done.job.image, failure)

    def _row(self, done: BatchResult[Finish]) -> Row:
        if isinstance(done.result, Failure):
            return self._fallen_back(done.job, done.result)
        try:
            encoded = carrying(done.result(), done.job.carried)
        except DecodeCheckError as error:
            failure = failure_of(error)
        else:
            return self._published(done.job, encoded, Work(done.started_at, batch_size=done.batch_size))
        return self._fallen_back(done.job, failure)

    def _fallen_back(self, job: FetchedImage, failure: Failure) -> Row:
        fall_back = self._variant.fall_back and failure.error_class != OUT_OF_MEMORY
        if not fall_back or not isinstance(self._coder, LearnedCoder | TargetCoder):
            return self._writer.failed(job.image, failure)
        started = datetime.now(timezone.utc)
        try:
            encoded = carrying(self._coder.amortized(job.pixels), job.carried)
        except DecodeCheckError as error:
            return self._writer.failed(job.image, failure_of(error))
        note = f"fell back to the amortized encoding: {failure.error}"
        return self._published(job, encoded, Work(started, method=_UNREFINED, note=note))

    def _published(self, job: FetchedImage, encoded: Encoded, work: Work) -> Row:
        """Publishes an encoding. Where another attempt was faster, its bitstream counts."""
        key = self._publisher.publish(job.image, encoded.outcome.data)
        if key is None:
            row = self._adopted(job, self._publisher.standing(job.image))
            if row is not None:
                return row
            key = self._publisher.publish_aside(job.image, encoded.outcome.data)
        return self._writer.ok(job, encoded, key, work)


@dataclass(frozen=True)
class _OutOfMemory:
    """Memory ran out while an image was finished beside others."""

    done: BatchResult[Finish]
