"""Small versions of a run's worst, median and best images, with the place where each differs most from its
original.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from ncbatch.report.evaluation import Evaluation
from ncbatch.report.originals import Images, Pixels
from ncbatch.report.rankings import read_groups
from ncbatch.report.rows import Rows
from ncbatch.report.shown_images import Gallery, Thumbnail

log = logging.getLogger(__name__)

WORST = 8
"""Images shown of the worst by default; of the median and the best half as many each."""

_SIDE = 320  # pixels of a thumbnail
_CROP = 160  # pixels of a crop in full size
_BLOCK = 16  # pixels of the grid on which the place of a crop is sought
_MEGAPIXELS = 60.0  # a minute or two on a CPU


def read_gallery(evaluation: Evaluation, rows: Rows, images: Images, worst: int | None) -> Gallery | None:
    """Thumbnails of one variant; where there are several variants, of the middle of a refined series.

    Args:
        evaluation: of the run.
        rows: its rows.
        images: reads its images.
        worst: how many of the worst to show, however long it takes; by default WORST, and no more than a
            minute or two of decoding.

    Returns:
        None where there is nothing to show, or where there are packs only, whose images take as long to
        decode as to infer.
    """
    variant = _variant(evaluation)
    if variant is None:
        return None
    left = float("inf") if worst is not None else _MEGAPIXELS
    found: list[tuple[str, tuple[Thumbnail, ...]]] = []
    left_out = 0
    for group in read_groups(rows, variant, WORST if worst is None else worst):
        affordable: list[dict[str, Any]] = []
        for row in group.rows:
            left -= row["width"] * row["height"] / 1e6
            if left < 0 and (affordable or found):
                left_out += 1
            else:
                affordable.append(row)
        found.append((group.title, tuple(_thumbnails(images, affordable))))
    groups = tuple((title, shown) for title, shown in found if shown)
    return Gallery(variant, groups, left_out) if groups else None


def _variant(evaluation: Evaluation) -> str | None:
    spec = evaluation.facts.spec
    for label in (*evaluation.refined, *evaluation.members):
        points = [m for m in evaluation.means if m.variant in evaluation.members[label]]
        plain = [m for m in points if not spec.variant(m.variant).recipe.uses_bits_back]
        if plain:
            return sorted(plain, key=lambda m: m.bpp)[len(plain) // 2].variant
    return None


def _thumbnails(images: Images, rows: list[dict[str, Any]]) -> Iterator[Thumbnail]:
    for row in rows:
        decoded = images.decoded(row)
        if decoded is None:
            continue
        original = images.original(row["image_key"], row["variant"])
        if original is not None and original.shape != decoded.shape:  # replaced since
            log.warning("the original of %s is not shown: it has another size today", row["image_key"])
            original = None
        top, left = _worst_place(original, decoded)
        part = np.s_[top : top + _CROP, left : left + _CROP]
        yield Thumbnail(
            row,
            _small(decoded),
            _jpeg(Image.fromarray(decoded[part])),
            _small(original) if original is not None else None,
            _jpeg(Image.fromarray(original[part])) if original is not None else None,
        )


def _worst_place(original: Pixels | None, decoded: Pixels) -> tuple[int, int]:
    """Top and left of the crop with the largest absolute error."""
    height, width = decoded.shape[:2]
    if original is None or height < _CROP or width < _CROP:
        return max(0, (height - _CROP) // 2), max(0, (width - _CROP) // 2)
    error = np.abs(original.astype(np.int16) - decoded).sum(2, dtype=np.int64)
    rows, columns = height // _BLOCK, width // _BLOCK
    blocks = error[: rows * _BLOCK, : columns * _BLOCK].reshape(rows, _BLOCK, columns, _BLOCK).sum((1, 3))
    side = _CROP // _BLOCK
    sums = np.lib.stride_tricks.sliding_window_view(blocks, (side, side)).sum((2, 3))
    top, left = np.unravel_index(int(sums.argmax()), sums.shape)
    return int(top) * _BLOCK, int(left) * _BLOCK


def _small(pixels: Pixels) -> bytes:
    image = Image.fromarray(pixels)
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    return _jpeg(image)


def _jpeg(image: Image.Image) -> bytes:
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=88, subsampling=0)
    return sink.getvalue()
