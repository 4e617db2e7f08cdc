"""How every figure of a report looks: its size, its colours on a light and on a dark page, its legend."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

Drawing = Callable[[], Figure]
"""Draws a figure in the style that is set when it is called."""

_WIDTH, _HEIGHT = 5.6, 3.5  # inches: text of 9 points is legible in half a wide page and on a telephone
_LEGEND_ROW = 0.18
_LEGEND_CHARACTERS = 84  # in a row, handles and gaps included
_HANDLE = 7  # characters

# By Okabe and Ito, told apart by readers of any colour vision; lighter where they would sink into the dark.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b8589a", "#b07d00", "#3a8fc4", "#7a7a7a", "#6a3d9a")
_ON_DARK = ("#56b4e9", "#ff8c42", "#2fc79a", "#e29ac9", "#f0c419", "#9fd3f5", "#b5b5b5", "#b79ae0")
_INK, _PAPER = "#24292f", "#ffffff"
_DARK = {**dict(zip(_COLOURS, _ON_DARK, strict=True)), _INK: "#d7dde4", _PAPER: "#161b22"}
_ANY_COLOUR = re.compile("|".join(_DARK))


def _settings() -> dict[str, Any]:
    names = (
        "text.color",
        "axes.labelcolor",
        "axes.edgecolor",
        "axes.titlecolor",
        "xtick.color",
        "ytick.color",
    )
    return dict.fromkeys(names, _INK) | {
        "axes.facecolor": "none",
        "axes.grid": True,
        "axes.prop_cycle": cycler(color=_COLOURS),
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlelocation": "left",
        "axes.titlesize": 10,
        "axes.titleweight": "bold",
        "figure.facecolor": _PAPER,
        "font.size": 9,
        "grid.alpha": 0.25,
        "grid.color": _INK,
        "legend.fontsize": 8,
        "legend.frameon": False,
        "svg.hashsalt": "ncbatch",  # the same numbers give the same file
        "text.parse_math": False,  # names of images may have dollars
    }


def new_figure(title: str, x: str, y: str, height: float = _HEIGHT) -> tuple[Figure, Axes]:
    """An empty figure with one pair of axes; the height is in inches."""
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(title=title, xlabel=x, ylabel=y)
    axes.set_axisbelow(True)
    return figure, axes


def add_legend(figure: Figure, axes: Axes) -> None:
    """Adds a legend below the axes, where it covers nothing; the figure grows by as much."""
    handles, labels = axes.get_legend_handles_labels()
    if not labels:
        return
    longest = max(map(len, labels)) + _HANDLE
    columns = min(len(labels), max(1, _LEGEND_CHARACTERS // longest))
    figure.set_figheight(figure.get_figheight() + _LEGEND_ROW * math.ceil(len(labels) / columns))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def ink() -> str:
    """The colour of text, for lines that belong to no series."""
    return _INK


@dataclass(frozen=True)
class Rendered:
    """One figure's files.

    Attributes:
        svg: for a light ground.
        dark_svg: the same for a dark page.
        png: for a light ground, at 150 dots per inch.
    """

    svg: bytes
    dark_svg: bytes
    png: bytes


def rendered(drawing: Drawing) -> Rendered:
    """Draws a figure and returns its files; the same numbers give the same bytes."""
    with matplotlib.rc_context(_settings()):  # type: ignore[arg-type]
        figure = drawing()
        svg = _saved(figure, "svg", metadata={"Date": None})
        figure.set_layout_engine("none")  # it is laid out, which takes longer than drawing it
        png = _saved(figure, "png", dpi=150)
    # Every colour is one of ours, so the dark figure is the light one in other colours.
    dark_svg = _ANY_COLOUR.sub(lambda found: _DARK[found[0]], svg.decode()).encode()
    return Rendered(svg, dark_svg, png)


def _saved(figure: Figure, suffix: str, **options: Any) -> bytes:
    sink = io.BytesIO()
    figure.savefig(sink, format=suffix, **options)
    return sink.getvalue()
