"""Images of one padded shape, encoded together; split where the whole cannot be done."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import chain
from typing import Generic, TypeVar

import torch

from ncbatch.codec.encode import Pause, RefinementState, padded_shape
from ncbatch.codec.errors import DecodeCheckError, DivergedError
from ncbatch.codec.refinement.batch import Refinement
from ncbatch.images.pixels import Pixels
from ncbatch.worker.batching import Batching, Shape
from ncbatch.worker.device_health import fault, says_out_of_memory
from ncbatch.worker.fetch import FetchedImage
from ncbatch.worker.pipeline import EVERYTHING
from ncbatch.worker.rows import Failure
from ncbatch.worker.tracer import Tracer
from ncbatch.worker.unit_progress import UnitProgress
from ncbatch.worker.work_in_progress import WorkInProgress

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
        batching: how many.
        device: that the function computes on.
        encode: results in the order of its jobs; may raise DivergedError or DecodeCheckError, or run out of
            memory.
        make_room: waits until there is memory for a batch of so many pixels beside what else is under way,
            or, given EVERYTHING, until nothing is; whether anything still is.
    """

    def __init__(
        self,
        batching: Batching,
        device: torch.device,
        encode: Callable[[Sequence[FetchedImage]], Sequence[Result]],
        make_room: Callable[[int], bool] = lambda pixels: False,
    ) -> None:
        self._batching, self._device = batching, device
        self._encode, self._make_room = encode, make_room

    def done(
        self, jobs: Iterable[FetchedImage], interrupted: Collection[str] = ()
    ) -> Iterator[BatchResult[Result]]:
        """One result per job, as they get done.

        Args:
            jobs: in any order of their shapes.
            interrupted: keys of the images of a batch that comes first, as it was when it was interrupted.
        """
        jobs = iter(jobs)
        first, others = _gathered(jobs, interrupted)
        if first:
            yield from self._tried(first, measured=False)
        held: dict[Shape, list[FetchedImage]] = {}
        for job in chain(others, jobs):
            shape = padded_shape(job.pixels)
            held.setdefault(shape, []).append(job)
            if len(held[shape]) >= self._batching.size(shape):
                yield from self._tried(held.pop(shape))
            while sum(map(_samples, held.values())) > _HELD_SAMPLES:
                fullest = max(held, key=lambda shape: _samples(held[shape]))
                yield from self._tried(held.pop(fullest))
        for batch in held.values():
            yield from self._tried(batch)

    def _tried(
        self, jobs: list[FetchedImage], *, alone: bool = False, measured: bool = True
    ) -> Iterator[BatchResult[Result]]:
        """alone: after memory ran out, with as much of it as can be had. measured: it is a batch like any."""
        beside_others = self._make_room(EVERYTHING if alone else sum(job.area for job in jobs))
        if alone and self._device.type == "cuda":
            torch.cuda.empty_cache()
        started, clock = datetime.now(timezone.utc), time.monotonic()
        try:
            results = self._encode(jobs)
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
        except (MemoryError, RuntimeError) as error:
            failure = memory_failure(error, self._device)
        except (DivergedError, DecodeCheckError) as error:
            failure = failure_of(error)
        else:
            if measured:
                self._batching.took(padded_shape(jobs[0].pixels), len(jobs), time.monotonic() - clock)
            for job, result in zip(jobs, results, strict=True):
                yield BatchResult(job, result, started, len(jobs))
            return
        # Not inside the handlers: while an error is handled, its traceback keeps all that the failed call had
        # in memory.
        out_of_memory = failure.error_class == OUT_OF_MEMORY
        if out_of_memory and beside_others:
            # What becomes of an image must not depend on what happened to be done beside it.
            yield from self._tried(jobs, alone=True, measured=measured)
        elif len(jobs) == 1:
            yield BatchResult(jobs[0], failure, started, 1)
        elif out_of_memory:
            yield from self._halved(jobs)
        else:
            for job in jobs:
                yield from self._tried([job])

    def _halved(self, jobs: list[FetchedImage]) -> Iterator[BatchResult[Result]]:
        self._batching.too_large(padded_shape(jobs[0].pixels), len(jobs))
        half = len(jobs) // 2
        yield from self._tried(jobs[:half], alone=True)
        yield from self._tried(jobs[half:], alone=True)


def _gathered(
    jobs: Iterator[FetchedImage], wanted: Collection[str]
) -> tuple[list[FetchedImage], list[FetchedImage]]:
    """The wanted jobs, and those that came before the last of them; as far as memory allows to look."""
    found: list[FetchedImage] = []
    others: list[FetchedImage] = []
    while len(found) < len(wanted) and _samples(found) + _samples(others) <= _HELD_SAMPLES:
        job = next(jobs, None)
        if job is None:
            break
        (found if job.image.key in wanted else others).append(job)
    return (found, others) if len(found) == len(wanted) else ([], found + others)


def _samples(jobs: Iterable[FetchedImage]) -> int:
    return sum(job.pixels.size for job in jobs)


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
        progress.at_step(images, refinement.step, refinement.has_stopped)
        tracer.look(refinement)
        if wip.due(refinement, at_once=progress.leaving):
            settle()
            wip.save(refinement, images, tracer.state())
        progress.go_on()

    results = encode([job.pixels for job in jobs], state, pause)
    tracer.end(images)
    return results
