"""Figures of rate, distortion and what refinement gains; no torch here."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ncbatch.report.bd_rate import Curve, savings
from ncbatch.report.errors import NoOverlapError
from ncbatch.report.evaluation import Evaluation
from ncbatch.report.style import Drawing, add_legend, new_figure

_MARKERS = "osD^vP*X<>hp"
TRACED = 4
"""Images whose traces are drawn."""


def _draw(axes: Axes, curve: Curve, style: str, **options: Any) -> None:
    points = sorted(zip(curve.rate, curve.quality, strict=True))
    axes.plot([r for r, _ in points], [q for _, q in points], style, label=curve.name, **options)


def rd_psnr(evaluation: Evaluation, published: Sequence[Curve]) -> Figure:
    """PSNR against rate: ours with markers, published curves dotted and cut to our range of rates."""
    figure, axes = new_figure("Rate and PSNR", "bits per pixel", "PSNR (dB)")
    curves = [evaluation.curve(label) for label in evaluation.series]
    for curve, marker in zip(curves, cycle(_MARKERS), strict=False):
        _draw(axes, curve, f"{marker}-", markersize=4)
    highest = 1.2 * max(rate for curve in curves for rate in curve.rate)
    for curve in published:
        kept = [p for p in zip(curve.rate, curve.quality, strict=True) if p[0] <= highest]
        if kept:
            shown = Curve(curve.name, [r for r, _ in kept], [q for _, q in kept])
            _draw(axes, shown, ":", linewidth=1)
    add_legend(figure, axes)
    return figure


def rd_ms_ssim(evaluation: Evaluation) -> Drawing | None:
    """MS-SSIM in dB against rate; None where no series has it."""
    curves = [curve for label in evaluation.series if (curve := evaluation.ms_ssim_curve(label))]
    if not curves:
        return None

    def draw() -> Figure:
        figure, axes = new_figure("Rate and MS-SSIM", "bits per pixel", "MS-SSIM (dB)")
        for curve, marker in zip(curves, cycle(_MARKERS), strict=False):
            _draw(axes, curve, f"{marker}-", markersize=4)
        add_legend(figure, axes)
        return figure

    return draw


def rate_savings(evaluation: Evaluation, reference: Curve) -> Drawing | None:
    """Relative rate against PSNR (the supplement's Figure S6)."""
    found = {}
    for label in evaluation.series:
        if label != reference.name:
            try:
                found[label] = savings(reference, evaluation.curve(label))
            except NoOverlapError:
                continue  # the table of BD-rates says so
    if not found:
        return None

    def draw() -> Figure:
        title = f"Rate against {reference.name} at the same PSNR"
        figure, axes = new_figure(title, "PSNR (dB)", "difference in rate (%)")
        for label, saved in found.items():
            axes.plot(saved.quality, 100 * saved.relative, label=label)
        add_legend(figure, axes)
        return figure

    return draw


def image_savings(per_image: Sequence[dict[str, Any]]) -> Drawing | None:
    """How much of the R-D loss refinement saved, image by image.

    Args:
        per_image: rows with variant, image_key and saved, in percent; only as many images as an axis can
            name.
    """
    if not per_image:
        return None
    keys = sorted({row["image_key"] for row in per_image})
    places = {key: place for place, key in enumerate(keys)}

    def draw() -> Figure:
        figure, axes = new_figure("R-D loss saved by refinement, image by image", "", "saved (%)")
        variants = list(dict.fromkeys(row["variant"] for row in per_image))
        for variant, marker in zip(variants, cycle(_MARKERS), strict=False):
            rows = [row for row in per_image if row["variant"] == variant]
            shown = [places[row["image_key"]] for row in rows]
            axes.plot(shown, [row["saved"] for row in rows], marker, markersize=4, label=variant)
        axes.set_xticks(range(len(keys)), [_short(key) for key in keys], rotation=90, fontsize=7)
        add_legend(figure, axes)
        return figure

    return draw


def convergence(traces: pa.Table, keys: Sequence[str]) -> Drawing | None:
    """R-D loss of the rounded latents against the step, of some images (the supplement's Figure S3).

    It is relative to each image's first traced step, since the images would lie far apart otherwise.
    """
    found = traces.filter(pc.is_in(traces["image_key"], pa.array(list(keys), pa.string())))
    rows = found.to_pylist()
    if not rows:
        return None

    def draw() -> Figure:
        title = "R-D loss of the rounded latents while refining"
        figure, axes = new_figure(title, "step", "against the first look (%)")
        colours = cycle(f"C{i}" for i in range(8))
        for variant, colour in zip(sorted({row["variant"] for row in rows}), colours, strict=False):
            for style, key in zip(("-", "--", ":", "-."), keys, strict=False):
                looks = [r for r in rows if r["variant"] == variant and r["image_key"] == key]
                if looks:
                    change = [100 * (r["rd_loss"] / looks[0]["rd_loss"] - 1) for r in looks]
                    label = f"{variant}, {_short(key)}"
                    axes.plot([r["step"] for r in looks], change, style, color=colour, label=label)
        add_legend(figure, axes)
        return figure

    return draw


def _short(key: str) -> str:
    """An image's key cut short, so that it does not push an axis off its figure."""
    return key if len(key) <= 24 else f"…{key[-23:]}"
