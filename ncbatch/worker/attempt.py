"""One attempt at a unit of files: from planned images to rows, with the bitstreams published on the way."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone

from ncbatch.codec.codecs import Coder, LearnedCoder
from ncbatch.codec.encode import Encoded
from ncbatch.codec.errors import DecodeCheckError
from ncbatch.metrics.schema import Row
from ncbatch.plan.spec import Variant
from ncbatch.plan.units import PlannedImage, Unit
from ncbatch.worker.batches import OUT_OF_MEMORY, Batches, BatchResult, failure_of, refined
from ncbatch.worker.fetch import FetchedImage, open_images
from ncbatch.worker.publish import Publisher
from ncbatch.worker.rows import Failure, RowWriter, Work
from ncbatch.worker.workspace import Workspace

log = logging.getLogger(__name__)


class Attempt:
    """One execution of a unit by one worker."""

    def __init__(
        self, workspace: Workspace, coder: Coder, variant: Variant, unit: Unit, attempt: str
    ) -> None:
        self._workspace, self._coder, self._variant = workspace, coder, variant
        self._writer = RowWriter(variant, unit, attempt, str(workspace.device))
        self._publisher = Publisher(
            workspace.output, unit, attempt, variant.recipe.suffix, create_only=workspace.spec.create_only
        )
        self.tracer = workspace.tracer(unit)
        self.wip = workspace.wip(unit)
        self.progress = workspace.progress(unit, attempt)

    def rows(self, images: Sequence[PlannedImage], poisoned: Mapping[str, str]) -> Iterator[Row]:
        """One row per image, as they get done; images of one padded shape go in batches."""
        early: list[Row] = []
        for done in Batches(self._workspace, self._encode).done(self._jobs(images, poisoned, early)):
            yield self._row(done)
        yield from early

    def probe(self, image: PlannedImage) -> None:
        """Does one image and publishes it, for a later attempt to adopt."""
        for row in self.rows([image], {}):
            log.info("probed %s: %s", row.image_key, row.status)

    def _jobs(
        self, images: Sequence[PlannedImage], poisoned: Mapping[str, str], early: list[Row]
    ) -> Iterator[FetchedImage]:
        """What there is to encode; rows of the other images go to `early`."""
        for image, job in open_images(self._workspace.corpus, images, self._variant, poisoned):
            if isinstance(job, Failure):
                early.append(self._writer.failed(image, job))
                continue
            row = self._adopted(job)
            if row is None:
                yield job
            else:
                early.append(row)

    def _adopted(self, job: FetchedImage) -> Row | None:
        """A row for a bitstream that an earlier attempt published before it could commit."""
        started = datetime.now(timezone.utc)
        for key, data in self._publisher.standing(job.image):
            encoded = self._coder.measured(job.pixels, data)
            if encoded is not None:
                return self._writer.ok(job.image, encoded, key, Work(started, adopted=True))
        return None

    def _encode(self, jobs: Sequence[FetchedImage]) -> list[Encoded]:
        found = refined(self._coder.find, jobs, self.wip, self.tracer, self.progress)
        return [finish() for finish in found]

    def _row(self, done: BatchResult[Encoded]) -> Row:
        if isinstance(done.result, Failure):
            return self._fallen_back(done.job, done.result)
        return self._published(done.job, done.result, Work(done.started_at, batch_size=done.batch_size))

    def _fallen_back(self, job: FetchedImage, failure: Failure) -> Row:
        fall_back = self._variant.fall_back and failure.error_class != OUT_OF_MEMORY
        if not fall_back or not isinstance(self._coder, LearnedCoder):
            return self._writer.failed(job.image, failure)
        started = datetime.now(timezone.utc)
        try:
            encoded = self._coder.amortized(job.pixels)
        except DecodeCheckError as error:
            return self._writer.failed(job.image, failure_of(error))
        note = f"fell back to the amortized encoding: {failure.error}"
        return self._published(job, encoded, Work(started, method="amortized", note=note))

    def _published(self, job: FetchedImage, encoded: Encoded, work: Work) -> Row:
        """Publishes an encoding. Where another attempt was faster, its bitstream counts."""
        key = self._publisher.publish(job.image, encoded.outcome.data)
        if key is None:
            row = self._adopted(job)
            if row is not None:
                return row
            key = self._publisher.publish_aside(job.image, encoded.outcome.data)
        return self._writer.ok(job.image, encoded, key, work)
