"""Images that share tensors, encoded together; split where the whole cannot be done."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from typing import Generic, TypeVar

import torch

from ncbatch.codec.encode import padded_shape
from ncbatch.codec.errors import DecodeCheckError, DivergedError
from ncbatch.codec.refinement.batch import Watched
from ncbatch.codec.refinement.canvas import shared
from ncbatch.images.pixels import Pixels
from ncbatch.metrics.failures import Failure
from ncbatch.stages import EVERYTHING
from ncbatch.worker.batching import Batching
from ncbatch.worker.busy import Busy
from ncbatch.worker.device_health import fault, says_out_of_memory
from ncbatch.worker.fetch import FetchedImage
from ncbatch.worker.tracer import Tracer
from ncbatch.worker.unit_progress import UnitProgress
from ncbatch.worker.waiting import Canvas, Waiting, own_shape
from ncbatch.worker.work_in_progress import WorkInProgress

OUT_OF_MEMORY = "out_of_memory"

Result = TypeVar("Result")


@dataclass(frozen=True)
class BatchResult(Generic[Result]):
    """What came of one image: a result of its batch, or why there is none."""

    job: FetchedImage
    result: Result | Failure
    started_at: datetime
    batch_size: int


Refill = Callable[[Sequence[int]], Sequence[FetchedImage]]
"""Given the numbers of the jobs that a batch is still at, in order of arrival, further jobs to go on with."""

Encode = Callable[[Sequence[FetchedImage], Refill], Iterable[tuple[int, Result | DivergedError]]]
"""Does jobs together: the number of each and what came of it, in any order."""


class Batches(Generic[Result]):
    """Puts jobs through a function that takes several at once.

    Args:
        batching: how many.
        device: that the function computes on.
        encode: may raise DivergedError or DecodeCheckError of the whole, or run out of memory.
        make_room: waits until there is memory for a batch of so many pixels beside what else is under way,
            or, given EVERYTHING, until nothing is; whether anything still is.
        canvas: of padded shapes; images that share it go together.
    """

    def __init__(
        self,
        batching: Batching,
        device: torch.device,
        encode: Encode[Result],
        make_room: Callable[[int], bool] = lambda pixels: False,
        canvas: Canvas = own_shape,
    ) -> None:
        self._batching, self._device = batching, device
        self._encode, self._make_room, self._canvas = encode, make_room, canvas
        self._waiting = Waiting(iter(()))

    def done(
        self,
        jobs: Iterable[FetchedImage],
        interrupted: Collection[str] = (),
        is_ready: Callable[[], bool] = lambda: True,
    ) -> Iterator[BatchResult[Result]]:
        """One result per job, as they get done.

        Args:
            jobs: in any order of their shapes.
            interrupted: keys of the images of a batch that comes first, as it was when it was interrupted.
            is_ready: whether the next job is there without waiting for it.
        """
        waiting = self._waiting = Waiting(iter(jobs), is_ready, self._canvas)
        if first := waiting.gathered(interrupted):
            yield from self._tried(first, measured=False)
        while shape := waiting.next_shape(self._batching.size):
            yield from self._tried(waiting.take(shape, self._batching.size(shape)))

    def _tried(
        self, jobs: list[FetchedImage], *, alone: bool = False, measured: bool = True
    ) -> Iterator[BatchResult[Result]]:
        """alone: after memory ran out, with as much of it as can be had. measured: it is a batch like any."""
        beside_others = self._make_room(EVERYTHING if alone else sum(job.area for job in jobs))
        if alone and self._device.type == "cuda":
            torch.cuda.empty_cache()
        clock, under_way = time.monotonic(), _UnderWay(jobs, self._canvas)
        try:
            for number, result in self._encode(jobs, partial(self._refill, under_way)):
                job, started = under_way.taken_out(number)
                came_of_it = failure_of(result) if isinstance(result, DivergedError) else result
                yield BatchResult(job, came_of_it, started, len(jobs))
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
        except (MemoryError, RuntimeError) as error:
            failure = memory_failure(error, self._device)
        except (DivergedError, DecodeCheckError) as error:
            failure = failure_of(error)
        else:
            if measured and not under_way.refilled:
                self._batching.took(under_way.shape, len(jobs), time.monotonic() - clock)
            return
        # Not inside the handlers: while an error is handled, its traceback keeps all that the failed call had
        # in memory.
        left = under_way.jobs
        out_of_memory = failure.error_class == OUT_OF_MEMORY
        if out_of_memory and beside_others:
            # What becomes of an image must not depend on what happened to be done beside it.
            yield from self._tried(left, alone=True, measured=measured)
        elif len(left) == 1:
            yield BatchResult(left[0], failure, under_way.began_at, 1)
        elif out_of_memory:
            yield from self._halved(left)
        else:
            for job in left:
                yield from self._tried([job])

    def _refill(self, under_way: _UnderWay, going_on: Sequence[int]) -> Sequence[FetchedImage]:
        """Jobs for the places that have got free, with room made for them."""
        shape = under_way.shape
        free = min(under_way.size, self._batching.size(shape)) - len(going_on)
        if free <= 0 or not self._batching.settled(shape):
            return []
        more = self._waiting.take_ready(shape, under_way.whole, free)
        if more:
            self._make_room(sum(job.area for job in [*under_way.jobs, *more]))
            under_way.add(more)
        return more

    def _halved(self, jobs: list[FetchedImage]) -> Iterator[BatchResult[Result]]:
        self._batching.too_large(self._canvas(padded_shape(jobs[0].pixels)), len(jobs))
        half = len(jobs) // 2
        yield from self._tried(jobs[:half], alone=True)
        yield from self._tried(jobs[half:], alone=True)


class _UnderWay:
    """The jobs of a batch that have no result yet, by their numbers in the order of arrival.

    Attributes:
        shape: their canvas.
        whole: height and width of the tensors that they share.
        size: how many began.
        refilled: whether others joined.
        began_at: when the first began.
    """

    def __init__(self, jobs: Sequence[FetchedImage], canvas: Canvas) -> None:
        shapes = [padded_shape(job.pixels) for job in jobs]
        self.shape, self.whole = canvas(shapes[0]), shared(shapes)
        self.size, self.refilled = len(jobs), False
        self._left: dict[int, tuple[FetchedImage, datetime]] = {}
        self._added = 0
        self.began_at = self.add(jobs)

    @property
    def jobs(self) -> list[FetchedImage]:
        return [job for job, _ in self._left.values()]

    def add(self, jobs: Sequence[FetchedImage]) -> datetime:
        """Numbers further jobs, which begin now."""
        now = datetime.now(timezone.utc)
        self.refilled = self._added > 0
        self._left |= {self._added + index: (job, now) for index, job in enumerate(jobs)}
        self._added += len(jobs)
        return now

    def taken_out(self, number: int) -> tuple[FetchedImage, datetime]:
        """A job that has a result, and when it began."""
        return self._left.pop(number)


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
    find: Callable[..., Iterable[tuple[int, Result | DivergedError]]],
    jobs: Sequence[FetchedImage],
    refill: Refill,
    wip: WorkInProgress,
    tracer: Tracer,
    progress: UnitProgress,
    settle: Callable[[], object] = lambda: None,
) -> Iterator[tuple[int, Result | DivergedError]]:
    """Encodes images together, from where an earlier attempt got to; saves and looks on the way.

    Args:
        find: of a coder.
        settle: publishes what was refined before. Called before a save, which takes the place of the state of
            images that would else be lost with the worker.
        Others: of the attempt; what is refined, and what is given to `refill`, as in `Batches`.
    """
    images = [job.image for job in jobs]
    state = wip.resume(images)
    tracer.begin(images, state)
    busy = Busy()

    def more(going_on: Sequence[int]) -> Sequence[Pixels]:
        with busy.waiting():
            found = refill(going_on)
        images.extend(job.image for job in found)
        return [job.pixels for job in found]

    def pause(refinement: Watched) -> None:
        at = [images[number] for number in refinement.numbers]
        progress.at_steps(at, refinement.steps_taken, refinement.has_ended)
        tracer.look(refinement, at)
        if wip.due(refinement, at_once=progress.leaving):
            with busy.waiting():
                settle()
                wip.save(refinement, at, tracer.state(at))
        if not refinement.done:  # else its results are about to be handed over
            progress.go_on()

    for number, result in busy.made(find([job.pixels for job in jobs], state, pause, more)):
        tracer.end(images[number])
        yield number, result
