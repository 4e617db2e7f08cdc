"""Figures of a bulk run: how its images are spread, and when and where they were done."""

from __future__ import annotations

import matplotlib.dates as mdates
import numpy as np
from matplotlib.figure import Figure

from ncbatch.report.distributions import LEVELS, Distribution, Histogram, Spread
from ncbatch.report.style import Drawing, add_legend, ink, new_figure
from ncbatch.report.throughput import Throughput

_VARIANT_ROW = 0.22  # inches


def spread(distribution: Distribution) -> Drawing:
    """A histogram, or, of many variants, the middle and the width of each."""
    quantity = distribution.quantity
    label = f"{quantity.title} ({quantity.unit})" if quantity.unit else quantity.title

    def draw() -> Figure:
        if distribution.histogram is not None:
            return _histogram(distribution.histogram, distribution.spreads, label)
        return _ranges(distribution.spreads, label)

    return draw


def _histogram(histogram: Histogram, spreads: tuple[Spread, ...], label: str) -> Figure:
    figure, axes = new_figure(label.partition(" (")[0], label, "images")
    several = len(histogram.counts) > 1
    medians = {found.variant: found.percentiles[LEVELS.index(50)] for found in spreads}
    for place, (variant, counts) in enumerate(histogram.counts.items()):
        colour = f"C{place}"
        axes.stairs(counts, histogram.edges, fill=True, color=colour, alpha=0.25 if several else 0.6)
        axes.stairs(counts, histogram.edges, color=colour, label=variant if several else None)
        middle = "median" if not several else None
        axes.axvline(
            medians[variant], color=colour if several else ink(), linestyle="--", linewidth=1, label=middle
        )
    axes.set_ylim(bottom=0)
    add_legend(figure, axes)
    return figure


def _ranges(spreads: tuple[Spread, ...], label: str) -> Figure:
    figure, axes = new_figure(label.partition(" (")[0], label, "", height=1.4 + _VARIANT_ROW * len(spreads))
    places = np.arange(len(spreads))[::-1]
    at = {level: [found.percentiles[i] for found in spreads] for i, level in enumerate(LEVELS)}
    axes.hlines(places, at[5], at[95], color="C0", linewidth=1.5, label="5th to 95th percentile")
    axes.hlines(places, at[25], at[75], color="C0", linewidth=6, alpha=0.5, label="25th to 75th percentile")
    axes.plot(at[50], places, "o", color=ink(), markersize=3, label="median")
    axes.set_yticks(places, [found.variant for found in spreads], fontsize=8)
    add_legend(figure, axes)
    return figure


def throughput(found: Throughput) -> Drawing:
    """Images an hour over time, the hosts' shares on top of each other."""

    def draw() -> Figure:
        figure, axes = new_figure("Throughput", "time (UTC)", "images per hour")
        edges = mdates.date2num(list(found.edges))
        base = np.zeros(len(edges) - 1)
        for place, (host, counts) in enumerate(found.counts.items()):
            top = base + np.array(counts) * 3600 / found.step_seconds
            axes.stairs(top, edges, baseline=base, fill=True, color=f"C{place}", alpha=0.75, label=host)
            base = top
        locator = mdates.AutoDateLocator(minticks=3, maxticks=8)
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(mdates.ConciseDateFormatter(locator))
        axes.set_ylim(bottom=0)
        add_legend(figure, axes)
        return figure

    return draw
