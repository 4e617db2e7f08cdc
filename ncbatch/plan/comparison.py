"""A listing beside a plan: in one pass over both, since both are in the order of their keys."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from ncbatch.plan.image_table import COLUMNS, batches_of, columns_of, planned_images
from ncbatch.plan.plan_files import StoredImages
from ncbatch.plan.units import PlannedImage, Unit

_READ = 256

Difference = tuple[PlannedImage, PlannedImage | None]
"""An input as it is listed, and as the newest plan knows it; None: no plan knows it."""


class _UnsortedError(Exception):
    """Keys are in another order, as an earlier ncbatch or a test may have planned them."""


def differences(planned: Sequence[Unit], listed: Sequence[PlannedImage]) -> tuple[list[Difference], int]:
    """The inputs that are listed otherwise than the newest plan knows them, in the listing's order.

    Args:
        planned: all units.
        listed: the inputs as they are now.

    Returns:
        the differences, and how many inputs the plan knows.
    """
    first = [unit for unit in planned if unit.generation == 0]
    later = newest_by_key(unit for unit in planned if unit.generation)
    counts: dict[str, int] = {}
    for unit in first:
        counts[unit.variant] = counts.get(unit.variant, 0) + len(unit.images)
    if len(set(counts.values())) == 1:  # every variant has the same images
        alone = [unit for unit in first if unit.variant == first[0].variant]
        try:
            return _by_merging(alone, later, listed)
        except _UnsortedError:
            pass
    known = newest_by_key(planned)
    pairs = ((image, known.get(image.key)) for image in listed)
    return [pair for pair in pairs if pair[1] is None or pair[1].etag != pair[0].etag], len(known)


def newest_by_key(planned: Sequence[Unit] | Iterator[Unit]) -> dict[str, PlannedImage]:
    """Each input as the newest of the plans that some units are of knows it."""
    newest: dict[str, tuple[int, PlannedImage]] = {}
    for unit in planned:
        for image in unit.images:
            if unit.generation >= newest.get(image.key, (0, image))[0]:
                newest[image.key] = unit.generation, image
    return {key: image for key, (_, image) in newest.items()}


def _by_merging(
    first: Sequence[Unit], later: dict[str, PlannedImage], listed: Sequence[PlannedImage]
) -> tuple[list[Difference], int]:
    found: list[Difference] = []
    rows, count, again, last = _Cursor(listed), 0, set[str](), ""

    def compare(image: PlannedImage, known: PlannedImage | None) -> None:
        known = later.get(image.key, known)
        if known is None or known.etag != image.etag:
            found.append((image, known))

    replaced = pa.array(list(later), pa.string())
    for unit in first:
        images = unit.images
        columns = images.columns() if isinstance(images, StoredImages) else columns_of(images)
        count += len(columns)
        keys = columns.column("image_key")
        if keys[0].as_py() <= last:
            raise _UnsortedError
        last = keys[-1].as_py()
        hit = keys.filter(pc.is_in(keys, value_set=replaced)).to_pylist() if later else []
        again.update(hit)
        if not hit and rows.skip_if_equal(columns):
            continue
        for known in planned_images(columns):
            while (image := rows.peek()) is not None and image.key < known.key:
                compare(rows.next(), None)
            if image is not None and image.key == known.key:
                compare(rows.next(), known)
    while rows.peek() is not None:
        compare(rows.next(), None)
    return found, count + len(later.keys() - again)


class _Cursor:
    """Goes over a listing: many rows at a time where they are as planned, else image by image."""

    def __init__(self, listed: Sequence[PlannedImage]) -> None:
        self._batches = batches_of(listed)
        self._table = pa.Table.from_batches([], COLUMNS)
        self._at = 0
        self._images: list[PlannedImage] = []
        self._last = ""

    def skip_if_equal(self, columns: pa.Table) -> bool:
        """Goes on behind the next rows if they have these keys and etags."""
        count = len(columns)
        here = self._next_rows(count)
        for name in ("image_key", "image_etag"):
            if len(here) < count or not here.column(name).equals(_chunked(columns.column(name))):
                return False
        self._at += count
        self._images = []
        return True

    def peek(self) -> PlannedImage | None:
        """The next image; None at the end."""
        if not self._images:
            self._images = list(planned_images(self._next_rows(_READ)))[::-1]
        return self._images[-1] if self._images else None

    def next(self) -> PlannedImage:
        """The next image, and goes on behind it."""
        image = self._images.pop()
        self._at += 1
        if image.key <= self._last and self._last:
            raise _UnsortedError
        self._last = image.key
        return image

    def _next_rows(self, count: int) -> pa.Table:
        """As many as are there, at most."""
        while len(self._table) - self._at < count and (batch := next(self._batches, None)) is not None:
            rest = self._table.slice(self._at).to_batches()
            self._table, self._at = pa.Table.from_batches([*rest, batch]), 0
        return self._table.slice(self._at, count)


def _chunked(column: pa.Array | pa.ChunkedArray) -> pa.ChunkedArray:
    return column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column])
