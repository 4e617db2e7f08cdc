"""One attempt at a unit: from planned images to rows, with the bitstreams published on the way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from ncbatch.codec.encode import Encoded, padded_shape
from ncbatch.codec.errors import DecodeCheckError, DivergedError
from ncbatch.codec.pictures import PictureError, PictureLimits, read_picture
from ncbatch.codec.refinement import Refinement
from ncbatch.metrics.schema import Row
from ncbatch.runs.coders import Coder, LearnedCoder
from ncbatch.runs.plan import PlannedImage, Unit
from ncbatch.runs.publish import Publisher
from ncbatch.runs.rows import Failure, RowWriter, Work
from ncbatch.runs.spec import Variant
from ncbatch.runs.traces import Tracer
from ncbatch.runs.wip import WorkInProgress
from ncbatch.store import AccessDenied, BucketNotFound, ObjectNotFound, StoreError, StoreUnavailable

if TYPE_CHECKING:
    from ncbatch.runs.unit import Workspace

_HELD_SAMPLES = 200_000_000  # of pictures kept in memory while batches fill up


@dataclass(frozen=True)
class _Job:
    image: PlannedImage
    pixels: NDArray[np.uint8]


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
        self.tracer = Tracer(workspace.output, unit, workspace.trace_every)
        self.wip = WorkInProgress(workspace.output, unit, variant, workspace.wip_seconds)

    def rows(self, images: Sequence[PlannedImage], poisoned: Mapping[str, str]) -> Iterator[Row]:
        """One row per image, as they get done; images of one padded shape go in batches."""
        batches: dict[tuple[int, int], list[_Job]] = {}
        for image in images:
            if image.key in poisoned:
                yield self._writer.failed(image, _poison(poisoned[image.key]))
                continue
            prepared = self._prepare(image)
            if isinstance(prepared, Row):
                yield prepared
                continue
            shape = padded_shape(prepared.pixels)
            batches.setdefault(shape, []).append(prepared)
            if len(batches[shape]) >= self._workspace.batch_size:
                yield from self._done(batches.pop(shape))
            elif sum(job.pixels.size for batch in batches.values() for job in batch) > _HELD_SAMPLES:
                for shape in list(batches):
                    yield from self._done(batches.pop(shape))
        for batch in batches.values():
            yield from self._done(batch)

    def _prepare(self, image: PlannedImage) -> Row | _Job:
        """Fetches and opens an image, and adopts its bitstream if one stands."""
        try:
            pixels = self._open(image)
        except _UnusableError as error:
            return self._writer.failed(image, error.failure)
        job = _Job(image, pixels)
        return self._adopted(job) or job

    def _open(self, image: PlannedImage) -> NDArray[np.uint8]:
        corpus = self._workspace.corpus
        try:
            info, data = corpus.get_with_info(image.key)
        except ObjectNotFound as error:
            corpus.check()  # raises when it is not about this object alone
            raise _UnusableError("missing", "the object is gone since the plan was made") from error
        except (StoreUnavailable, BucketNotFound):
            raise
        except StoreError as error:
            corpus.check()
            error_class = "access_denied" if isinstance(error, AccessDenied) else "refused"
            raise _UnusableError(error_class, str(error)) from error
        if info.etag != image.etag:
            raise _UnusableError(
                "changed", "the object changed after the plan was made; run the same command again"
            )
        try:
            limits = PictureLimits(max_pixels=self._variant.max_pixels)
            return read_picture(data, alpha=self._variant.alpha, limits=limits)
        except PictureError as error:
            raise _UnusableError(error.error_class, str(error)) from error

    def _adopted(self, job: _Job) -> Row | None:
        """A row for a bitstream that an earlier attempt published before it could commit."""
        started = datetime.now(timezone.utc)
        for key, data in self._publisher.standing(job.image):
            encoded = self._coder.measured(job.pixels, data)
            if encoded is not None:
                return self._writer.ok(job.image, encoded, key, Work(started, adopted=True))
        return None

    def _done(self, jobs: list[_Job]) -> Iterator[Row]:
        """Encodes and publishes a batch; splits it where the whole cannot be done."""
        started = datetime.now(timezone.utc)
        try:
            encoded = self._encode(jobs)
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            failure = Failure(_OUT_OF_MEMORY, f"the picture does not fit in memory: {error}")
        except (DivergedError, DecodeCheckError) as error:
            failure = Failure(_class_of(error), str(error))
        else:
            for job, result in zip(jobs, encoded, strict=True):
                yield self._published(job, result, Work(started, batch_size=len(jobs)))
            return
        # Not inside the handlers: while an error is handled, its traceback keeps all that the failed call had
        # in memory.
        if failure.error_class == _OUT_OF_MEMORY:
            yield from self._smaller(jobs, failure)
        elif len(jobs) > 1:
            for job in jobs:
                yield from self._done([job])
        else:
            yield self._fallen_back(jobs[0], failure)

    def _encode(self, jobs: list[_Job]) -> list[Encoded]:
        images = [job.image for job in jobs]
        state = self.wip.resume(images) if self._variant.recipe.refines else None
        self.tracer.begin(state)

        def pause(refinement: Refinement) -> None:
            self.tracer.look(refinement)
            self.wip.save_sometimes(refinement, images, self.tracer.state)

        encoded = self._coder.encode([job.pixels for job in jobs], state, pause)
        self.tracer.end(images)
        return encoded

    def _smaller(self, jobs: list[_Job], failure: Failure) -> Iterator[Row]:
        if len(jobs) == 1:
            yield self._writer.failed(jobs[0].image, failure)
            return
        half = len(jobs) // 2
        self._workspace.batch_size = min(self._workspace.batch_size, half)
        if self._workspace.device.type == "cuda":
            torch.cuda.empty_cache()
        yield from self._done(jobs[:half])
        yield from self._done(jobs[half:])

    def _fallen_back(self, job: _Job, failure: Failure) -> Row:
        if not self._variant.fall_back or not isinstance(self._coder, LearnedCoder):
            return self._writer.failed(job.image, failure)
        started = datetime.now(timezone.utc)
        try:
            encoded = self._coder.amortized(job.pixels)
        except DecodeCheckError as error:
            return self._writer.failed(job.image, Failure(_class_of(error), str(error)))
        note = f"fell back to the amortized encoding: {failure.error}"
        return self._published(job, encoded, Work(started, method="amortized", note=note))

    def _published(self, job: _Job, encoded: Encoded, work: Work) -> Row:
        """Publishes an encoding. Where another attempt was faster, its bitstream counts."""
        key = self._publisher.publish(job.image, encoded.outcome.data)
        if key is None:
            row = self._adopted(job)
            if row is not None:
                return row
            key = self._publisher.publish_aside(job.image, encoded.outcome.data)
        return self._writer.ok(job.image, encoded, key, work)


class _UnusableError(Exception):
    """An input that cannot be encoded; only this image is concerned."""

    def __init__(self, error_class: str, error: str) -> None:
        super().__init__(error)
        self.failure = Failure(error_class, error)


def _poison(error_class: str) -> Failure:
    return Failure(error_class, "the worker was lost every time it came to this image; see its log")


_OUT_OF_MEMORY = "out_of_memory"


def _class_of(error: DivergedError | DecodeCheckError) -> str:
    return "diverged" if isinstance(error, DivergedError) else "decode_check"


def _is_out_of_memory(error: BaseException) -> bool:
    """Torch raises a RuntimeError of its own on GPUs and a plain one on CPUs."""
    return isinstance(error, MemoryError | torch.cuda.OutOfMemoryError) or "can't allocate" in str(error)
