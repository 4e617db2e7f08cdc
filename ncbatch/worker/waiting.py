"""Images that are fetched and wait until there are enough of their padded shape to be refined together."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import chain

from ncbatch.codec.encode import padded, padded_shape
from ncbatch.plan.units import PlannedImage
from ncbatch.worker.batching import Shape
from ncbatch.worker.fetch import FetchedImage

_HELD_SAMPLES = 200_000_000  # of images kept in memory while batches fill up


class Waiting:
    """Takes jobs from an iterator as it has to, and keeps those whose turn has not come.

    Args:
        jobs: in any order of their shapes.
        is_ready: whether the next of them is there without waiting for it.
    """

    def __init__(self, jobs: Iterator[FetchedImage], is_ready: Callable[[], bool] = lambda: True) -> None:
        self._jobs, self._is_ready = jobs, is_ready
        self._held: dict[Shape, list[FetchedImage]] = {}
        self._error: Exception | None = None

    def gathered(self, wanted: Collection[str]) -> list[FetchedImage]:
        """The jobs of these images in their order of arrival, if all come as far as memory allows to look."""
        found: list[FetchedImage] = []
        others: list[FetchedImage] = []
        while len(found) < len(wanted) and _samples(chain(found, others)) <= _HELD_SAMPLES:
            job = next(self._jobs, None)
            if job is None:
                break
            (found if job.image.key in wanted else others).append(job)
        complete = len(found) == len(wanted)
        for job in others if complete else found + others:
            self._hold(job)
        return found if complete else []

    def next_shape(self, size: Callable[[Shape], int]) -> Shape | None:
        """The shape to go on with: one with enough jobs, or the fullest where memory is full, or where there
        are no others. None: none are left.

        Args:
            size: how many are enough.
        """
        while True:
            for shape, held in self._held.items():
                if len(held) >= size(shape):
                    return shape
            if self._samples() > _HELD_SAMPLES:
                return max(self._held, key=lambda shape: _samples(self._held[shape]))
            job = self._next()
            if job is None:
                return next(iter(self._held), None)
            self._hold(job)

    def take(self, shape: Shape, at_most: int, *, only_ready: bool = False) -> list[FetchedImage]:
        """Jobs of a shape, in the order of their arrival.

        Args:
            shape: of which some are held, or not.
            at_most: how many.
            only_ready: looks for more among those that are there without waiting; by default, among those
                held.
        """
        held = self._held.setdefault(shape, [])
        while only_ready and len(held) < at_most and self._samples() <= _HELD_SAMPLES:
            if self._error is not None or not self._is_ready():
                break
            try:
                job = next(self._jobs, None)
            except Exception as error:  # noqa: BLE001 - it is not about the images that are under way
                self._error = error
                break
            if job is None:
                break
            self._hold(job)
        taken, self._held[shape] = held[:at_most], held[at_most:]
        if not self._held[shape]:
            del self._held[shape]
        return taken

    def _next(self) -> FetchedImage | None:
        if self._error is not None:
            raise self._error
        return next(self._jobs, None)

    def _hold(self, job: FetchedImage) -> None:
        self._held.setdefault(padded_shape(job.pixels), []).append(job)

    def _samples(self) -> int:
        return sum(map(_samples, self._held.values()))


def by_shape(images: Iterable[PlannedImage]) -> list[PlannedImage]:
    """Planned images, those of one padded shape one after the other, as far as their sizes are known: so
    that batches fill up while few others wait, and a place that gets free finds the next of its shape.
    """

    def shape(image: PlannedImage) -> tuple[int, int]:
        return padded(image.height, image.width) if image.height and image.width else (0, 0)

    return sorted(images, key=shape)


def _samples(jobs: Iterable[FetchedImage]) -> int:
    return sum(job.pixels.size for job in jobs)
