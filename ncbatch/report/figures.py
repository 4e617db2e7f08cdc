"""The figures that come from the metrics table; no torch here."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import Any

import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ncbatch.report.bd_rate import Curve, savings
from ncbatch.report.errors import NoOverlapError
from ncbatch.report.evaluation import AMORTIZED, Evaluation

_MARKERS = "osD^vP*X<>hp"
_TRACED = 4  # images


def new_figure(title: str, x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(title=title, xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    return figure, axes


def _draw(axes: Axes, curve: Curve, style: str, **options: Any) -> None:
    points = sorted(zip(curve.rate, curve.quality, strict=True))
    axes.plot([r for r, _ in points], [q for _, q in points], style, label=curve.name, **options)


def rd_psnr(evaluation: Evaluation, published: Sequence[Curve]) -> Figure:
    """PSNR against rate; ours with markers, published curves dotted and cut to our range of rates."""
    figure, axes = new_figure("Rate and distortion", "bits per pixel", "PSNR (dB)")
    curves = [evaluation.curve(label) for label in evaluation.series]
    for curve, marker in zip(curves, cycle(_MARKERS), strict=False):
        _draw(axes, curve, f"{marker}-", markersize=4)
    highest = 1.2 * max(rate for curve in curves for rate in curve.rate)
    for curve in published:
        kept = [p for p in zip(curve.rate, curve.quality, strict=True) if p[0] <= highest]
        if kept:
            shown = Curve(curve.name, [r for r, _ in kept], [q for _, q in kept])
            _draw(axes, shown, ":", linewidth=1)
    axes.legend(fontsize=7)
    return figure


def rd_ms_ssim(evaluation: Evaluation) -> Figure | None:
    curves = [curve for label in evaluation.series if (curve := evaluation.ms_ssim_curve(label))]
    if not curves:
        return None
    figure, axes = new_figure("Rate and MS-SSIM", "bits per pixel", "MS-SSIM (dB)")
    for curve, marker in zip(curves, cycle(_MARKERS), strict=False):
        _draw(axes, curve, f"{marker}-", markersize=4)
    axes.legend(fontsize=7)
    return figure


def rate_savings(evaluation: Evaluation, reference: Curve) -> Figure | None:
    """Relative rate against PSNR (the supplement's Figure S6)."""
    figure, axes = new_figure(
        f"Rate against {reference.name} at the same PSNR", "PSNR (dB)", "rate difference (%)"
    )
    drawn = 0
    for label in evaluation.series:
        if label == reference.name:
            continue
        try:
            found = savings(reference, evaluation.curve(label))
        except NoOverlapError:
            continue  # the table of BD-rates says so
        axes.plot(found.quality, 100 * found.relative, label=label)
        drawn += 1
    if not drawn:
        return None
    axes.legend(fontsize=7)
    return figure


def image_savings(evaluation: Evaluation) -> Figure | None:
    """How much R-D loss refinement saved, image by image."""
    refined = [m for m in evaluation.means if m.saved_percent is not None and m.method != AMORTIZED]
    if not refined:
        return None
    keys = sorted({row["image_key"] for row in evaluation.per_image})
    figure, axes = new_figure("R-D loss saved by refinement", "image", "saved (%)")
    for mean, marker in zip(refined, cycle(_MARKERS), strict=False):
        saved = {
            r["image_key"]: r["saved_percent"] for r in evaluation.per_image if r["variant"] == mean.variant
        }
        places = [i for i, key in enumerate(keys) if key in saved]
        axes.plot(places, [saved[keys[i]] for i in places], marker, markersize=4, label=mean.variant)
    if len(keys) <= 40:
        axes.set_xticks(range(len(keys)), keys, rotation=90, fontsize=6)
    axes.legend(fontsize=6)
    return figure


def convergence(traces: pa.Table, images: Sequence[str] = ()) -> Figure | None:
    """R-D loss of the rounded latents against the step (the supplement's Figure S3).

    Args:
        images: keys of the images shown, some four; by default the first of the run.

    Relative to the first look, or the images would lie far apart.
    """
    rows = traces.to_pylist()
    if not rows:
        return None
    keys = list(images)[:_TRACED] or sorted({row["image_key"] for row in rows})[:_TRACED]
    figure, axes = new_figure("R-D loss of the hard-rounded latents", "step", "against the first look (%)")
    colours = cycle(f"C{i}" for i in range(10))
    for variant, colour in zip(sorted({row["variant"] for row in rows}), colours, strict=False):
        for style, key in zip(("-", "--", ":", "-."), keys, strict=False):
            looks = [r for r in rows if r["variant"] == variant and r["image_key"] == key]
            if not looks:
                continue
            first = looks[0]["rd_loss"]
            change = [100 * (r["rd_loss"] / first - 1) for r in looks]
            axes.plot([r["step"] for r in looks], change, style, color=colour, label=f"{variant}, {key}")
    axes.legend(fontsize=6)
    return figure
