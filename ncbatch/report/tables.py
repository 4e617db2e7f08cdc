"""The tables of a report: as CSV with the names of the metrics table, and on the page with headings."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Literal

from ncbatch.report.bd_rate import Curve, bd_rate
from ncbatch.report.errors import NoOverlapError
from ncbatch.report.evaluation import Evaluation
from ncbatch.report.overview import Overview
from ncbatch.report.series import AMORTIZED, Means
from ncbatch.words import size

_BD_COLUMNS = ("series", "reference", "bd_rate_pchip_percent", "bd_rate_cubic_percent", "why_not")

ColumnKind = Literal["text", "count", "bytes", "time"] | int
"""How a value is written; a number: with so many decimals."""


@dataclass(frozen=True)
class Column:
    """A column on the page.

    Attributes:
        name: of its values in the rows.
        heading: on the page.
        kind: how its values are written.
    """

    name: str
    heading: str
    kind: ColumnKind

    @property
    def is_text(self) -> bool:
        """Whether its values are words, which are aligned to the left."""
        return self.kind == "text"


@dataclass(frozen=True)
class Table:
    """Columns by name, and rows of values in their order."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]

    def csv(self) -> bytes:
        """The table as CSV in UTF-8, with a heading."""
        sink = io.StringIO()
        writer = csv.writer(sink, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(self.rows)
        return sink.getvalue().encode("utf-8", "surrogateescape")

    def dictionaries(self) -> list[dict[str, Any]]:
        """The rows as dictionaries by the names of the columns."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


VARIANTS = (
    Column("variant", "Variant", "text"),
    Column("method", "Method", "text"),
    Column("model", "Model", "text"),
    Column("lmbda", "λ", "text"),
    Column("steps", "Steps", "count"),
    Column("ok", "Encoded", "count"),
    Column("failed", "Failed", "count"),
    Column("bpp", "Rate, bpp", 4),
    Column("psnr", "PSNR, dB", 2),
    Column("ms_ssim_db", "MS-SSIM, dB", 2),
    Column("rd_loss", "R-D loss", 4),
    Column("saved_percent", "R-D loss saved, %", 2),
    Column("bytes_out", "Bytes", "bytes"),
    Column("bytes_saved_percent", "Fewer than originals, %", 1),
    Column("device_seconds", "Device time per image, s", 3),
    Column("decode_seconds", "Decoding per image, s", 3),
    Column("cost_per_image", "Cost of device time per image", 6),
)

IMAGES = (
    Column("image_key", "Image", "text"),
    Column("variant", "Variant", "text"),
    Column("pixels", "Size, pixels", "text"),
    Column("image_bytes", "Original", "bytes"),
    Column("length", "Encoded", "bytes"),
    Column("share", "Of original, %", 1),
    Column("bpp", "Rate, bpp", 3),
    Column("psnr", "PSNR, dB", 2),
    Column("ms_ssim", "MS-SSIM", 4),
    Column("rd_loss", "R-D loss", 3),
    Column("saved", "R-D loss saved, %", 2),
    Column("device_seconds", "Device time, s", 2),
    Column("host", "Host", "text"),
    Column("remark", "Remark", "text"),
)

HOSTS = (
    Column("name", "Host", "text"),
    Column("device", "Device", "text"),
    Column("workers", "Workers", "count"),
    Column("ok", "Encoded", "count"),
    Column("failed", "Failed", "count"),
    Column("megapixels", "Megapixels", 1),
    Column("images_per_hour", "Images per hour", 0),
    Column("device_hours", "Device time, h", 2),
    Column("idle_percent", "Idle, %", 1),
    Column("first", "First start, UTC", "time"),
    Column("last", "Last end, UTC", "time"),
)

BD_RATES = (
    Column("series", "Series", "text"),
    Column("reference", "Against", "text"),
    Column("bd_rate_pchip_percent", "BD-rate (PCHIP), %", 2),
    Column("bd_rate_cubic_percent", "BD-rate (cubic), %", 2),
    Column("why_not", "Remark", "text"),
)


def shown(columns: Sequence[Column], rows: Sequence[dict[str, Any]]) -> list[Column]:
    """The columns in which some row has a value."""
    return [column for column in columns if any(row.get(column.name) not in (None, "") for row in rows)]


def cell(value: Any, kind: ColumnKind) -> str:
    """A value as the page shows it."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    if kind == "bytes":
        return size(value)
    if kind == "count":
        return f"{value:,}"
    if isinstance(kind, int):
        return f"{value:,.{kind}f}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def bd_table(evaluation: Evaluation, references: Sequence[Curve]) -> Table:
    """BD-rates of all series against some reference curves, in percent; negative where a series needs fewer
    bits.
    """
    return Table(_BD_COLUMNS, list(_bd_rows(evaluation, references)))


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


def default_reference(evaluation: Evaluation) -> str:
    """The amortized series where it is a curve, else the first that is one."""
    labels = sorted(evaluation.series, key=lambda label: label != AMORTIZED)
    curves = [label for label in labels if len(set(evaluation.curve(label).quality)) > 1]
    return (curves or labels)[0]


def variants_table(evaluation: Evaluation, overview: Overview, price_per_hour: float | None) -> Table:
    """Means and totals of each variant.

    Args:
        evaluation: of the run.
        overview: of the run.
        price_per_hour: of a device, for a column of costs; None leaves it out.
    """
    means = {mean.variant: mean for mean in evaluation.means}
    totals = ("ok", "failed", "bytes_in", "bytes_out", "bytes_saved_percent", "total_device_seconds")
    names = tuple(f.name for f in fields(Means))
    rows = []
    for found in overview.variants:
        mean, amount = means.get(found.variant), found.amount
        cost = None
        if price_per_hour is not None and mean is not None and mean.device_seconds is not None:
            cost = mean.device_seconds / 3600 * price_per_hour
        values = [found.variant, *(getattr(mean, name, None) for name in names[1:])]
        saved = mean.saved_percent if mean is not None else None
        bytes_saved = amount.saved_percent if found.ok else None
        numbers = (
            found.ok,
            found.failed,
            amount.bytes_in,
            amount.bytes_out,
            bytes_saved,
            found.device_seconds,
        )
        rows.append((*values, saved, cost, *numbers))
    return Table((*names, "saved_percent", "cost_per_image", *totals), rows)
