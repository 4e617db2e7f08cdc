"""The few sizes of tensors in which images of many sizes are refined together.

A GPU takes as long for a step of one small image as for several. So images that differ in size share tensors,
of a size that all of them fit in: few sizes, since a GPU's libraries look for the fastest kernels for each,
and how many images go together is learned for each. What lies beyond an image's own border costs time and
changes nothing (see `codec.model.extents`).
"""

from __future__ import annotations

from collections.abc import Collection

from ncbatch.codec.model.hyperprior import PADDING

Shape = tuple[int, int]
"""Height and width, padded."""

_SIDES = (192, 384, 576, 768, 896)
"""Of canvases, in pixels: as many as are computed in one tile. A finer division (in steps of 128) filled a
tenth more of the tensors and took a sixth more batches."""


def padded(height: int, width: int) -> Shape:
    """Height and width of an image after padding."""
    return -height % PADDING + height, -width % PADDING + width


def canvas(shape: Shape) -> Shape:
    """The canvas of an image: larger in area than its padded shape, and itself where that is large."""
    if max(shape) > _SIDES[-1]:  # each tile of such an image keeps a GPU busy
        return shape
    height, width = (next(side for side in _SIDES if side >= needed) for needed in shape)
    return height, width


def shared(shapes: Collection[Shape]) -> Shape:
    """The size of the tensors that images of these padded shapes share: their own if all have the same."""
    if len(set(shapes)) == 1:
        return next(iter(shapes))
    heights, widths = zip(*map(canvas, shapes), strict=True)
    return max(heights), max(widths)
