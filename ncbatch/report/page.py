"""The report: one HTML page that works offline, its figures as PNG and SVG, its tables as CSV."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime, timezone
from typing import Any

import jinja2
from matplotlib.figure import Figure

from ncbatch import __version__
from ncbatch.metrics.traces import read_traces
from ncbatch.report import figures
from ncbatch.report.bd_rate import Curve, bd_rate
from ncbatch.report.errors import NoOverlapError
from ncbatch.report.evaluation import AMORTIZED, Evaluation, Means
from ncbatch.store import Store

_BD_COLUMNS = ("series", "reference", "bd_rate_pchip_percent", "bd_rate_cubic_percent", "why_not")


@dataclass(frozen=True)
class Shown:
    """One side of the slider. png: whole; zoom: the crop."""

    label: str
    png: bytes
    zoom: bytes


@dataclass(frozen=True)
class Comparison:
    image_key: str
    width: int
    height: int
    shown: tuple[Shown, ...]


@dataclass(frozen=True)
class Table:
    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]

    def csv(self) -> bytes:
        sink = io.StringIO()
        writer = csv.writer(sink, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(self.rows)
        return sink.getvalue().encode()


@dataclass
class Report:
    """Everything that is shown."""

    evaluation: Evaluation
    figures: dict[str, Figure] = field(default_factory=dict)
    tables: dict[str, Table] = field(default_factory=dict)
    comparisons: list[Comparison] = field(default_factory=list)


def build(
    evaluation: Evaluation,
    output: Store,
    published: Sequence[Curve],
    *,
    reference: str | None = None,
    price_per_hour: float | None = None,
    images: Sequence[str] = (),
) -> Report:
    """Draws figures and tables of a run; pictures are the caller's to add.

    Args:
        reference: label of a series; by default the amortized one where it is a curve, else the first.
        price_per_hour: of a device, for the cost per image.
        images: whose traces are shown; by default the first of the run.
    """
    base = evaluation.curve(reference or _default_reference(evaluation))
    report = Report(evaluation)
    drawn = {
        "rd_psnr": figures.rd_psnr(evaluation, published),
        "rd_ms_ssim": figures.rd_ms_ssim(evaluation),
        "rate_savings": figures.rate_savings(evaluation, base),
        "image_savings": figures.image_savings(evaluation),
        "convergence": figures.convergence(read_traces(output), images),
    }
    report.figures = {name: figure for name, figure in drawn.items() if figure is not None}
    report.tables = {
        "bd_rates": Table(_BD_COLUMNS, list(_bd_rows(evaluation, [base, *published]))),
        "variants": _variants_table(evaluation, price_per_hour),
        "images": Table(
            tuple(evaluation.per_image[0]), [tuple(row.values()) for row in evaluation.per_image]
        ),
    }
    return report


def _default_reference(evaluation: Evaluation) -> str:
    labels = sorted(evaluation.series, key=lambda label: label != AMORTIZED)
    curves = [label for label in labels if len(set(evaluation.curve(label).quality)) > 1]
    return (curves or labels)[0]


def _bd_rows(evaluation: Evaluation, references: Sequence[Curve]) -> Iterator[tuple[Any, ...]]:
    for label in evaluation.series:
        for reference in references:
            if reference.name == label:
                continue
            values: list[float | None] = []
            why = ""
            for fit in ("pchip", "cubic"):
                try:
                    values.append(100 * bd_rate(reference, evaluation.curve(label), fit))
                except NoOverlapError as error:
                    values.append(None)
                    why = why or str(error)
            yield (label, reference.name, *values, why)


def _variants_table(evaluation: Evaluation, price_per_hour: float | None) -> Table:
    names = tuple(f.name for f in fields(Means))
    columns = (*names, "saved_percent", "cost_per_image")
    rows = []
    for mean in evaluation.means:
        cost = None
        if price_per_hour is not None and mean.device_seconds is not None:
            cost = mean.device_seconds / 3600 * price_per_hour
        rows.append((*(getattr(mean, name) for name in names), mean.saved_percent, cost))
    return Table(columns, rows)


def write(report: Report, destination: Store) -> None:
    """Writes `index.html`, `figures/*.png|svg` and `tables/*.csv`."""
    drawn = {}
    for name, figure in report.figures.items():
        for suffix in ("png", "svg"):
            sink = io.BytesIO()
            figure.savefig(sink, format=suffix, dpi=150)
            destination.put(f"figures/{name}.{suffix}", sink.getvalue())
        drawn[name] = _data_uri(sink.getvalue(), "image/svg+xml")
    for name, table in report.tables.items():
        destination.put(f"tables/{name}.csv", table.csv())
    destination.put("index.html", _render(report, drawn).encode())


def _render(report: Report, drawn: dict[str, str]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ncbatch.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["cell"] = _cell
    environment.filters["png"] = lambda data: _data_uri(data, "image/png")
    return environment.get_template("page.html").render(
        report=report,
        figures=drawn,
        version=__version__,
        written=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _data_uri(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
