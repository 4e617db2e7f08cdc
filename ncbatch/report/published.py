"""R-D points that others have published, as facts to draw beside our own.

`published.csv`: the paper's authors (Kodak, Tecnick), CompressAI's results for other codecs, and
BPG 4:4:4 as in tensorflow-compression.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

from ncbatch.report.errors import ReportError

if TYPE_CHECKING:
    from ncbatch.report.bd_rate import Curve

_COLUMNS = ("dataset", "method", "source", "lambda", "bpp", "psnr_rgb_db")


@dataclass(frozen=True)
class Point:
    """A published R-D point: means over a data set.

    Attributes:
        psnr: of RGB, in dB.
        lmbda: None for classical codecs.
    """

    dataset: str
    method: str
    source: str
    lmbda: float | None
    bpp: float
    psnr: float


def published_points() -> list[Point]:
    """The points that come with the package."""
    text = (resources.files("ncbatch.report") / "published.csv").read_text()
    return parse_points(text, "published.csv")


def parse_points(text: str, name: str) -> list[Point]:
    """Points from CSV with the columns dataset, method, source, lambda, bpp, psnr_rgb_db.

    Raises:
        ReportError: a column is missing, or a value is no number; the message names it.
    """
    reader = csv.DictReader(io.StringIO(text))
    missing = [column for column in _COLUMNS if column not in (reader.fieldnames or ())]
    if missing:
        raise ReportError(
            f"the reference table {name} lacks the columns {', '.join(missing)}; it has to have "
            + ", ".join(_COLUMNS)
        )
    points = []
    for row in reader:
        try:
            lmbda = float(row["lambda"]) if row["lambda"] else None
            bpp, psnr = float(row["bpp"]), float(row["psnr_rgb_db"])
        except (TypeError, ValueError) as error:
            raise ReportError(f"line {reader.line_num} of {name} holds no numbers: {error}") from error
        points.append(Point(row["dataset"], row["method"], row["source"], lmbda, bpp, psnr))
    return points


def curves(points: Iterable[Point], dataset: str) -> dict[str, Curve]:
    """The curves of one data set by method, named with their source, in the order of their first points."""
    from ncbatch.report.bd_rate import Curve  # with scipy, which a list of models does without

    found: dict[str, list[Point]] = {}
    for point in points:
        if point.dataset == dataset:
            found.setdefault(point.method, []).append(point)
    return {
        method: Curve(f"{method} ({those[0].source})", [p.bpp for p in those], [p.psnr for p in those])
        for method, those in found.items()
    }
