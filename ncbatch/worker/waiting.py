"""Images that are fetched and wait until there are enough that can be refined together."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import chain

from ncbatch.codec.encode import padded_shape
from ncbatch.codec.refinement.canvas import Shape, padded
from ncbatch.plan.units import PlannedImage
from ncbatch.worker.fetch import FetchedImage

_HELD_SAMPLES = 200_000_000  # of images kept in memory while batches fill up

Canvas = Callable[[Shape], Shape]
"""The canvas of a padded shape: images that share it may be refined together."""


def own_shape(shape: Shape) -> Shape:
    """The canvas where only images of one padded shape are refined together."""
    return shape


class Waiting:
    """Takes jobs from an iterator as it has to, and keeps those whose turn has not come.

    Args:
        jobs: in any order of their shapes.
        is_ready: whether the next of them is there without waiting for it.
        canvas: of their padded shapes.
    """

    def __init__(
        self,
        jobs: Iterator[FetchedImage],
        is_ready: Callable[[], bool] = lambda: True,
        canvas: Canvas = own_shape,
    ) -> None:
        self._jobs, self._is_ready, self._canvas = jobs, is_ready, canvas
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
        """The canvas to go on with: one with enough jobs, or the fullest where memory is full, or where there
        are no others. None: none are left.

        Enough are so many of one padded shape, whose tensors then hold nothing but images; or twice as many
        of several, since those that come next are often of a shape that is held.

        Args:
            size: how many are enough.
        """
        changed = list(self._held)
        while True:
            for shape in changed:
                held, enough = self._held[shape], size(shape)
                if len(held) >= 2 * enough or _of_one_shape(held, enough):
                    return shape
            if self._samples() > _HELD_SAMPLES:
                return max(self._held, key=lambda shape: _samples(self._held[shape]))
            job = self._next()
            if job is None:
                return next(iter(self._held), None)
            changed = [self._hold(job)]

    def take(self, shape: Shape, at_most: int) -> list[FetchedImage]:
        """Jobs of a canvas that are held, in the order of their arrival; of one padded shape if there are
        enough of them.
        """
        held = self._held.get(shape, [])
        return self._out(shape, (_of_one_shape(held, at_most) or held)[:at_most])

    def take_ready(self, shape: Shape, within: Shape, at_most: int) -> list[FetchedImage]:
        """Jobs of a canvas that are there without waiting for them, in the order of their arrival.

        Args:
            shape: the canvas, of which some are held, or not.
            within: a height and width, padded, that they have to fit in.
            at_most: how many.
        """
        while len(self._fitting(shape, within)) < at_most and self._samples() <= _HELD_SAMPLES:
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
        return self._out(shape, self._fitting(shape, within)[:at_most])

    def _fitting(self, shape: Shape, within: Shape) -> list[FetchedImage]:
        shapes = ((job, padded_shape(job.pixels)) for job in self._held.get(shape, []))
        return [job for job, own in shapes if own[0] <= within[0] and own[1] <= within[1]]

    def _out(self, shape: Shape, taken: list[FetchedImage]) -> list[FetchedImage]:
        """No longer holds some jobs of a canvas."""
        gone = set(map(id, taken))
        left = [job for job in self._held.pop(shape, []) if id(job) not in gone]
        if left:
            self._held[shape] = left
        return taken

    def _next(self) -> FetchedImage | None:
        if self._error is not None:
            raise self._error
        return next(self._jobs, None)

    def _hold(self, job: FetchedImage) -> Shape:
        """Holds a job; its canvas."""
        shape = self._canvas(padded_shape(job.pixels))
        self._held.setdefault(shape, []).append(job)
        return shape

    def _samples(self) -> int:
        return sum(map(_samples, self._held.values()))


def by_shape(images: Iterable[PlannedImage], canvas: Canvas = own_shape) -> list[PlannedImage]:
    """Planned images, those of one canvas one after the other and of these those of one padded shape, as far
    as their sizes are known: so that batches fill up while few others wait, and a place that gets free finds
    the next of its shape.
    """

    def shapes(image: PlannedImage) -> tuple[Shape, Shape]:
        if not image.height or not image.width:
            return (0, 0), (0, 0)
        own = padded(image.height, image.width)
        return canvas(own), own

    return sorted(images, key=shapes)


def _of_one_shape(jobs: Iterable[FetchedImage], enough: int) -> list[FetchedImage]:
    """The jobs of the first padded shape of which there are enough; none, if there is none."""
    by_own: dict[Shape, list[FetchedImage]] = {}
    for job in jobs:
        by_own.setdefault(padded_shape(job.pixels), []).append(job)
    return next((found for found in by_own.values() if len(found) >= enough), [])


def _samples(jobs: Iterable[FetchedImage]) -> int:
    return sum(job.pixels.size for job in jobs)
