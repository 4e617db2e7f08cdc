"""The picture comparison: an original beside its reconstructions at about the same rate (Figure S4)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncbatch.codec.pictures import PictureError, read_picture, write_png
from ncbatch.report.errors import ReportError
from ncbatch.report.evaluation import AMORTIZED, Evaluation
from ncbatch.report.page import Comparison, Shown
from ncbatch.runs.reading import RunReader
from ncbatch.store import Store, StoreError

log = logging.getLogger(__name__)

Pixels = NDArray[np.uint8]

_ZOOM = 96  # pixels a side of the crop that is shown enlarged
_SHOWN_SIDE = 1024  # larger pictures are cut


def compare(
    evaluation: Evaluation, reader: RunReader, corpus: Store, image_keys: Sequence[str]
) -> list[Comparison]:
    """Comparisons of some images; an original that is gone is left out.

    Raises:
        ReportError: the run has no such image.
    """
    return [_compare(evaluation, reader, corpus, key) for key in image_keys]


def choose(evaluation: Evaluation, count: int = 2) -> list[str]:
    """The images that refinement improves most, where there is refinement; else the first ones."""
    best: dict[str, float] = {}
    for row in evaluation.per_image:
        best[row["image_key"]] = max(best.get(row["image_key"], 0.0), row["saved_percent"] or 0.0)
    return sorted(best, key=lambda key: (-best[key], key))[:count]


def _compare(evaluation: Evaluation, reader: RunReader, corpus: Store, key: str) -> Comparison:
    rows = {row["variant"]: row for row in evaluation.per_image if row["image_key"] == key}
    if not rows:
        raise ReportError(f"the run has no encoded image {key!r}; --images takes keys of the table")
    chosen = _matched(evaluation, rows)
    pictures = [(_label(row), reader.picture(key, row["variant"])) for row in chosen]
    try:
        pictures.insert(0, ("original", read_picture(corpus.get(key), alpha="white")))
    except (StoreError, PictureError) as error:  # the reconstructions are still worth a look
        log.warning("the original of %s is not shown: %s", key, error)
    height, width = (min(side, _SHOWN_SIDE) for side in pictures[0][1].shape[:2])
    pictures = [(label, pixels[:height, :width]) for label, pixels in pictures]
    top, left = _busiest(pictures[0][1])
    shown = [
        Shown(label, write_png(p), write_png(p[top : top + _ZOOM, left : left + _ZOOM]))
        for label, p in pictures
    ]
    return Comparison(key, width, height, tuple(shown))


def _matched(evaluation: Evaluation, rows: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Of every series the variant whose rate is next to that of a refined series' middle."""
    refined = [
        points
        for label, points in evaluation.series.items()
        if points[0].saved_percent is not None and label != AMORTIZED
    ]
    anchor_points = refined[0] if refined else next(iter(evaluation.series.values()))
    anchor = rows[anchor_points[len(anchor_points) // 2].variant]
    found = []
    for points in evaluation.series.values():
        there = [rows[p.variant] for p in points if p.variant in rows]
        if there:
            found.append(min(there, key=lambda row: abs(row["bpp"] - anchor["bpp"])))
    return found


def _label(row: dict[str, Any]) -> str:
    return f"{row['variant']}: {row['bpp']:.3f} bpp, {row['psnr']:.2f} dB"


def _busiest(pixels: Pixels) -> tuple[int, int]:
    """Top and left of the crop with the most contrast, on a coarse grid."""
    height, width = (max(side - _ZOOM, 0) for side in pixels.shape[:2])
    places = [(t, x) for t in range(0, height + 1, _ZOOM // 2) for x in range(0, width + 1, _ZOOM // 2)]
    return max(places, key=lambda p: float(pixels[p[0] : p[0] + _ZOOM, p[1] : p[1] + _ZOOM].std()))
