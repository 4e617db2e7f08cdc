"""Images of one padded shape, encoded together; split where the whole cannot be done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Generic, TypeVar

import torch

from ncbatch.codec.encode import Pause, RefinementState, padded_shape
from ncbatch.codec.errors import DecodeCheckError, DivergedError
from ncbatch.codec.refinement.batch import Refinement
from ncbatch.images.pixels import Pixels
from ncbatch.worker.device_health import fault, says_out_of_memory
from ncbatch.worker.fetch import FetchedImage
from ncbatch.worker.pipeline import EVERYTHING
from ncbatch.worker.rows import Failure
from ncbatch.worker.tracer import Tracer
from ncbatch.worker.unit_progress import UnitProgress
from ncbatch.worker.work_in_progress import WorkInProgress
from ncbatch.worker.workspace import Workspace

_HELD_SAMPLES = 200_000_000  # of images kept in memory while batches fill up

OUT_OF_MEMORY = "out_of_memory"

Result = TypeVar("Result")


@dataclass(frozen=True)
class BatchResult(Generic[Result]):
    """What came of one image: a result of its batch, or why there is none."""

    job: FetchedImage
    result: Result | Failure
    started_at: datetime
    batch_size: int


class Batches(Generic[Result]):
    """Puts jobs through a function that takes several at once.

    Args:
        encode: results in the order of its jobs; may raise DivergedError or DecodeCheckError, or run out of
            memory.
        make_room: waits until there is memory for a batch of so many pixels beside what else is under way,
            or, given EVERYTHING, until nothing is; whether anything still is.
    """

    def __init__(
        self,
        workspace: Workspace,
        encode: Callable[[Sequence[FetchedImage]], Sequence[Result]],
        make_room: Callable[[int], bool] = lambda pixels: False,
    ) -> None:
        self._workspace, self._encode, self._make_room = workspace, encode, make_room

    def done(self, jobs: Iterable[FetchedImage]) -> Iterator[BatchResult[Result]]:
        """One result per job, as they get done."""
        batches: dict[tuple[int, int], list[FetchedImage]] = {}
        for job in jobs:
            shape = padded_shape(job.pixels)
            batches.setdefault(shape, []).append(job)
            if len(batches[shape]) >= self._workspace.batch_size:
                yield from self._tried(batches.pop(shape))
            elif sum(job.pixels.size for batch in batches.values() for job in batch) > _HELD_SAMPLES:
                for shape in list(batches):
                    yield from self._tried(batches.pop(shape))
        for batch in batches.values():
            yield from self._tried(batch)

    def _tried(self, jobs: list[FetchedImage], *, alone: bool = False) -> Iterator[BatchResult[Result]]:
        """alone: after memory ran out, with as much of it as can be had."""
        beside_others = self._make_room(EVERYTHING if alone else sum(job.area for job in jobs))
        if alone and self._workspace.device.type == "cuda":
            torch.cuda.empty_cache()
        started = datetime.now(timezone.utc)
        try:
            results = self._encode(jobs)
        except (MemoryError, RuntimeError) as error:
            failure = memory_failure(error, self._workspace.device)
        except (DivergedError, DecodeCheckError) as error:
            failure = failure_of(error)
        else:
            for job, result in zip(jobs, results, strict=True):
                yield BatchResult(job, result, started, len(jobs))
            return
        # Not inside the handlers: while an error is handled, its traceback keeps all that the failed call had
        # in memory.
        out_of_memory = failure.error_class == OUT_OF_MEMORY
        if out_of_memory and beside_others:
            # What becomes of an image must not depend on what happened to be done beside it.
            yield from self._tried(jobs, alone=True)
        elif len(jobs) == 1:
            yield BatchResult(jobs[0], failure, started, 1)
        elif out_of_memory:
            yield from self._halved(jobs)
        else:
            for job in jobs:
                yield from self._tried([job])

    def _halved(self, jobs: list[FetchedImage]) -> Iterator[BatchResult[Result]]:
        half = len(jobs) // 2
        self._workspace.batch_size = min(self._workspace.batch_size, half)
        yield from self._tried(jobs[:half], alone=True)
        yield from self._tried(jobs[half:], alone=True)


def failure_of(error: DivergedError | DecodeCheckError) -> Failure:
    """The failure of an image whose encoding diverged or failed its decode check."""
    error_class = "diverged" if isinstance(error, DivergedError) else "decode_check"
    return Failure(error_class, str(error))


def memory_failure(error: MemoryError | RuntimeError, device: torch.device) -> Failure:
    """The failure of an image for which memory ran out.

    Raises:
        MemoryError, RuntimeError: the error, if it says something else, or the device is broken: then its
            libraries cannot allocate anything either.
    """
    if not says_out_of_memory(error) or fault(device) is not None:
        raise error
    return Failure(OUT_OF_MEMORY, f"the image does not fit in memory: {error}")


def refined(
    encode: Callable[[list[Pixels], RefinementState | None, Pause], list[Result]],
    jobs: Sequence[FetchedImage],
    wip: WorkInProgress,
    tracer: Tracer,
    progress: UnitProgress,
    settle: Callable[[], object] = lambda: None,
) -> list[Result]:
    """Encodes images together, from where an earlier attempt got to; saves and looks on the way.

    settle: publishes what was refined before. Called before a save, which takes the place of the state of
    images that would else be lost with the worker.
    """
    images = [job.image for job in jobs]
    state = wip.resume(images)
    tracer.begin(state)

    def pause(refinement: Refinement) -> None:
        progress.at_step(images, refinement.step)
        tracer.look(refinement)
        if wip.due(refinement):
            settle()
            wip.save(refinement, images, tracer.state())

    results = encode([job.pixels for job in jobs], state, pause)
    tracer.end(images)
    return results
