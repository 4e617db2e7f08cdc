"""The slider: an original beside its reconstructions at about the same rate (the supplement's Figure S4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ncbatch.codec.model.checkpoint import Checkpoint
from ncbatch.images.write import write_png
from ncbatch.metrics.sql import quoted
from ncbatch.report.evaluation import Evaluation
from ncbatch.report.originals import Images, Pixels
from ncbatch.report.rows import SAVED_PERCENT, Rows
from ncbatch.report.series import AMORTIZED
from ncbatch.report.shown_images import BrowserFile, ComparedImage, Comparison

_ZOOM = 96  # pixels a side of the crop that is shown enlarged
_SHOWN_SIDE = 1024  # of larger images a part is shown

# Those that have most variants to compare, and of these the ones that refinement improves most.
_CHOICE = f"""
select image_key from metrics where status = 'ok' group by image_key
order by count(distinct variant) desc, max({SAVED_PERCENT}) desc nulls last, image_key limit {{count}}
"""

_VARIANTS = """
select image_key, variant, method, status, model_digest, bitstream_key, "offset", length, sha256, width,
       height, bpp, psnr, rd_loss
from metrics where status = 'ok' and image_key = {key} order by variant
"""


def choose(rows: Rows, count: int = 2) -> list[str]:
    """The images that refinement improves most, where there is refinement; else the first ones."""
    return [row["image_key"] for row in rows.select(_CHOICE.format(count=count))]


def compare(
    evaluation: Evaluation, rows: Rows, images: Images, image_keys: Sequence[str], *, in_browser: bool = False
) -> list[Comparison]:
    """Comparisons of some images of a run.

    Left out are images that cannot be read, and those with nothing to compare them with.

    Args:
        evaluation: of the run.
        rows: its rows.
        images: reads its images.
        image_keys: of the images wanted.
        in_browser: whether the page decodes `.ncb` files itself.
    """
    found = [_compare(evaluation, rows, images, key, in_browser) for key in image_keys]
    return [comparison for comparison in found if comparison is not None]


def _compare(
    evaluation: Evaluation, rows: Rows, images: Images, key: str, in_browser: bool
) -> Comparison | None:
    by_variant = {row["variant"]: row for row in rows.select(_VARIANTS.format(key=quoted(key)))}
    chosen = _matched(evaluation, by_variant)
    found = [(row, pixels) for row in chosen if (pixels := images.decoded(row)) is not None]
    if not found:
        return None
    files = [images.file(row) if in_browser else None for row, _ in found]
    shown = [(_label(row), pixels) for row, pixels in found]
    original = images.original(key, chosen[0]["variant"])
    if original is not None:
        shown.insert(0, ("original", original))
        files.insert(0, None)
    if len(shown) < 2:  # a slider between an image and itself
        return None
    left, right = _opening([row for row, _ in found], original is not None)
    return Comparison(key, tuple(_cut(shown, files)), left, right)


def _opening(rows: Sequence[dict[str, Any]], has_original: bool) -> tuple[int, int]:
    """Which two the slider shows first: before and after refinement where both are there, else before and
    after coding.
    """
    first = int(has_original)
    amortized = [n for n, row in enumerate(rows, first) if row["method"] == AMORTIZED]
    refined = [
        n for n, row in enumerate(rows, first) if row["method"] != AMORTIZED and row["rd_loss"] is not None
    ]
    if amortized and refined:
        return amortized[0], refined[0]
    return 0, min(1, len(rows) - 1 + first)


def _cut(
    shown: Sequence[tuple[str, Pixels]], files: Sequence[tuple[bytes, Checkpoint] | None]
) -> list[ComparedImage]:
    """The same part of each image: around the crop with the most contrast."""
    height, width = shown[0][1].shape[:2]
    top, left = _busiest(shown[0][1])
    y, x = (
        max(0, min(start + _ZOOM // 2 - _SHOWN_SIDE // 2, side - _SHOWN_SIDE))
        for start, side in ((top, height), (left, width))
    )
    whole = (x, y, min(_SHOWN_SIDE, width), min(_SHOWN_SIDE, height))
    zoom = (left, top, min(_ZOOM, width), min(_ZOOM, height))
    return [
        ComparedImage(label, file=BrowserFile(*file, whole, zoom))
        if file is not None
        else ComparedImage(label, write_png(_part(pixels, *whole)), write_png(_part(pixels, *zoom)))
        for (label, pixels), file in zip(shown, files, strict=True)
    ]


def _part(pixels: Pixels, left: int, top: int, width: int, height: int) -> Pixels:
    return pixels[top : top + height, left : left + width]


def _matched(evaluation: Evaluation, rows: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Of every series, the variant whose rate is nearest to that of a refined series' middle."""
    members = [
        [rows[name] for name in names if name in rows]
        for label, names in sorted(evaluation.members.items(), key=lambda m: m[0] not in evaluation.refined)
    ]
    there = [sorted(series, key=lambda row: row["bpp"]) for series in members if series]
    if not there:  # an image of variants that are not compared yet
        return list(rows.values())
    anchor = there[0][len(there[0]) // 2]
    return [min(series, key=lambda row: abs(row["bpp"] - anchor["bpp"])) for series in there]


def _label(row: dict[str, Any]) -> str:
    return f"{row['variant']}: {row['bpp']:.3f} bpp, {row['psnr']:.2f} dB"


def _busiest(pixels: Pixels) -> tuple[int, int]:
    """Top and left of the crop with the most contrast, on a coarse grid."""
    height, width = (max(side - _ZOOM, 0) for side in pixels.shape[:2])
    places = [(t, x) for t in range(0, height + 1, _ZOOM // 2) for x in range(0, width + 1, _ZOOM // 2)]
    return max(places, key=lambda p: float(pixels[p[0] : p[0] + _ZOOM, p[1] : p[1] + _ZOOM].std()))
