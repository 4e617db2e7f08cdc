"""The figures of the README and the docs: `python -m benchmarks.figures` writes them into `docs/figures/`.

Nothing is measured here. The built-in ladder's points come from `ncbatch/models/models.json`, published
curves from `ncbatch/report/published.csv`, and what refinement gains from the table in `docs/methods.md`.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ncbatch.models import catalog
from ncbatch.report.published import curves, published_points
from ncbatch.report.style import rendered

ROOT = Path(__file__).resolve().parents[1]
FIGURES, METHODS = ROOT / "docs" / "figures", ROOT / "docs" / "methods.md"
PUBLISHED = {
    "jpeg": "JPEG",
    "webp": "WebP",
    "bpg-4:4:4": "BPG 4:4:4",
    "base-hyperprior": "paper's base model (N = 192)",
    "sga": "paper's base model, SGA",
}
REFINED = {"amortized": "amortized", "map": "MAP", "sga": "SGA"}
_RATES = (0.05, 1.25)  # bpp
_STEPS_OF_METHODS = ("0", "200")

Points = list[tuple[float, float]]
"""(bpp, PSNR in dB), by ascending rate."""


def ladder() -> Points:
    """The built-in base models, amortized, on images of Kodak."""
    facts = catalog.builtin_facts().items()
    measured = [fact.measured for name, fact in facts if name.startswith("base-") and fact.measured]
    return sorted((m.bpp, m.psnr) for m in measured)


def published() -> dict[str, Points]:
    """The published curves that are drawn, by their name in the legend."""
    known = curves(published_points(), "kodak")
    return {
        label: [
            (bpp, psnr)
            for bpp, psnr in sorted(zip(known[name].rate, known[name].quality, strict=True))
            if _RATES[0] <= bpp <= _RATES[1]
        ]
        for name, label in PUBLISHED.items()
    }


def methods(page: str) -> dict[str, Points]:
    """Of the first table of `docs/methods.md`: each method at three rates, 200 steps of refinement."""
    points: dict[str, Points] = {label: [] for label in REFINED.values()}
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 7 and cells[1] in REFINED and cells[2] in _STEPS_OF_METHODS:
            points[REFINED[cells[1]]].append((float(cells[3]), float(cells[4])))
    return {label: sorted(found) for label, found in points.items()}


def _draw(axes: Axes, series: Mapping[str, Points], style: str) -> None:
    for label, points in series.items():
        axes.plot(*zip(*points, strict=True), style, label=label, markersize=4, linewidth=1.5)


def rd_curves() -> Figure:
    """R-D curves of the built-in models and of the methods, beside published ones."""
    figure = Figure(figsize=(8.6, 3.9), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(1.45, 1))
    left.set(title="Built-in models on Kodak, amortized", xlabel="bits per pixel", ylabel="PSNR in dB")
    _draw(left, {"built-in models (N = 64)": ladder()}, "o-")
    _draw(left, published(), "--")
    left.set(xlim=_RATES, ylim=(24, 40))
    right.set(title="Refined, on crops of 384 x 256", xlabel="bits per pixel")
    _draw(right, methods(METHODS.read_text()), "o-")
    for axes in (left, right):
        axes.legend(loc="lower right")
    return figure


def write(folder: Path) -> list[Path]:
    """Writes every figure for light and for dark pages; the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    figure = rendered(rd_curves)
    written = []
    for suffix, svg in (("", figure.svg), ("-dark", figure.dark_svg)):
        path = folder / f"rd-curves{suffix}.svg"
        path.write_text(re.sub(r"[ \t]+$", "", svg.decode(), flags=re.MULTILINE))
        written.append(path)
    return written


def main() -> None:
    """Writes the figures into a folder."""
    parser = argparse.ArgumentParser(description="the figures of the README and the docs")
    parser.add_argument("folder", nargs="?", type=Path, default=FIGURES)
    for path in write(parser.parse_args().folder):
        print(path)


if __name__ == "__main__":
    main()
