"""Writes a report: one HTML page that works offline, figures as PNG and SVG, tables as CSV, images as PNG."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

import jinja2
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from ncbatch import __version__
from ncbatch.export.scripts import browser_decoder, model_script
from ncbatch.report import tables
from ncbatch.report.cards import cards
from ncbatch.report.distributions import LEVELS
from ncbatch.report.links import Links
from ncbatch.report.page import Report
from ncbatch.report.rankings import ALL_ROWS, MANY_ROWS
from ncbatch.report.style import rendered
from ncbatch.store import Store

ROWS_AS_CSV = 100_000
"""More ok rows than these go to a Parquet file: a spreadsheet could not open them anyway."""

ROWS_AS_PARQUET = 500_000
"""More than these are not copied beside the page."""

_FAILED = """
select image_key, variant, error_class, error from metrics where status = 'failed' order by image_key, variant
"""


def write(
    report: Report, destination: Store, output: Store, corpus: Store | None = None, *, live: int | None = None
) -> None:
    """Writes `index.html`, `figures/`, `tables/` and `images/`.

    Args:
        report: what they show.
        destination: the folder they are written to.
        output: the run's folder. The page links to its bitstreams where it can reach them.
        corpus: the images' folder, likewise; None where it is not there any more.
        live: of a page that a server shows while the run goes on, the number of this version of it: the page
            asks the server what happens, and loads itself again when there is a newer version.
    """
    drawn = {}
    for name, drawing in report.figures.items():
        figure = rendered(drawing)
        destination.put(f"figures/{name}.svg", figure.svg)
        destination.put(f"figures/{name}.png", figure.png)
        drawn[name] = {"light": _svg(figure.svg), "dark": _svg(figure.dark_svg)}
    for name, table in report.tables.items():
        destination.put(f"tables/{name}.csv", table.csv())
    files = _write_rows(report, destination)
    comparisons = [_write_comparison(n, report, destination) for n in range(len(report.comparisons))]
    scripts = _write_decoder(report, destination)
    page = _render(
        report,
        figures=drawn,
        files=files,
        comparisons=comparisons,
        scripts=scripts,
        live=live,
        links=Links(destination, output, served=live is not None),
        originals=Links(destination, corpus) if corpus is not None else None,
    )
    destination.put("index.html", page.encode("utf-8", "backslashreplace"))


def _write_rows(report: Report, destination: Store) -> dict[str, str]:
    """Writes all rows beside the page, as CSV or, where they are many, as Parquet; returns what the files are
    called.
    """
    files: dict[str, str] = {}
    if report.overview.ok:
        files |= _write_ok_rows(report, destination)
    if report.failures:
        files["failures"] = "tables/failures.csv"
        sink = io.BytesIO()
        pacsv.write_csv(report.rows.table.query(_FAILED), sink)
        destination.put(files["failures"], sink.getvalue())
    return files


def _write_ok_rows(report: Report, destination: Store) -> dict[str, str]:
    ok, sink = report.overview.ok, io.BytesIO()
    if ok > ROWS_AS_PARQUET:
        return {}
    if ok <= ROWS_AS_CSV:
        key = "tables/images.csv"
        pacsv.write_csv(report.rows.table.query(ALL_ROWS), sink)
    else:
        key = "tables/images.parquet"
        with (
            report.rows.table.batches(MANY_ROWS) as batches,
            pq.ParquetWriter(sink, batches.schema, compression="zstd") as writer,
        ):
            for batch in batches:
                writer.write_batch(batch)
    destination.put(key, sink.getvalue())
    return {"images": key}


def _write_comparison(number: int, report: Report, destination: Store) -> dict[str, Any]:
    """Writes the images of a slider beside the page, which fetches those that somebody looks at."""
    comparison = report.comparisons[number]
    shown: list[dict[str, Any]] = []
    for place, side in enumerate(comparison.shown):
        if (file := side.file) is not None:
            decoded = {"file": base64.b64encode(file.data).decode(), "model": file.model.digest}
            shown.append({"label": side.label, **decoded, "parts": {"whole": file.whole, "zoom": file.zoom}})
            continue
        key = f"images/{number}-{place}.png"
        destination.put(key, side.whole)
        shown.append({"label": side.label, "whole": key, "zoom": _data_uri(side.zoom, "image/png")})
    return {
        "image_key": comparison.image_key, "shown": shown, "left": comparison.left, "right": comparison.right,
    }  # fmt: skip


def _write_decoder(report: Report, destination: Store) -> list[str]:
    """Writes the scripts by which the page decodes files itself, where it does; returns their keys."""
    sides = [side for comparison in report.comparisons for side in comparison.shown]
    models = {side.file.model.digest: side.file.model for side in sides if side.file is not None}
    if not models:
        return []
    scripts = {"images/ncb-decoder.js": browser_decoder()}
    scripts |= {f"images/{digest[:16]}.js": model_script(model) for digest, model in models.items()}
    for key, script in scripts.items():
        destination.put(key, script)
    return list(scripts)


def waiting_page(run: str, live: int) -> bytes:
    """The page of a run that has no rows yet, for a server that shows what happens."""
    page = _environment().get_template("waiting.html").render(run=run, name=_name(run), live=live)
    return page.encode("utf-8", "backslashreplace")


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ncbatch.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"] = tables.cell
    environment.filters["jpeg"] = lambda data: _data_uri(data, "image/jpeg")
    return environment


def _render(report: Report, **things: Any) -> str:
    return (
        _environment()
        .get_template("page.html")
        .render(
            report=report,
            overview=report.overview,
            evaluation=report.evaluation,
            facts=report.evaluation.facts,
            cards=cards(report),
            levels=LEVELS,
            tables=_tables(report),
            several=len(report.overview.variants) > 1,
            name=_name(report.evaluation.corpus),
            version=__version__,
            written=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
            **things,
        )
    )


def _tables(report: Report) -> Mapping[str, Any]:
    """Rows as dictionaries, and the columns in which some row has a value."""
    variants = report.tables["variants"].dictionaries()
    found = {"variants": (tables.shown(tables.VARIANTS, variants), variants)}
    if "bd_rates" in report.tables:
        rates = report.tables["bd_rates"].dictionaries()
        found["bd_rates"] = (tables.shown(tables.BD_RATES, rates), rates)
    if report.throughput is not None:
        hosts = [
            {
                **vars(host),
                "images_per_hour": host.images_per_hour,
                "idle_percent": host.idle_percent,
                "device_hours": host.device_seconds / 3600 if host.device_seconds is not None else None,
            }
            for host in report.throughput.hosts
        ]
        found["hosts"] = (tables.shown(tables.HOSTS, hosts), hosts)
    images = [row for ranking in report.rankings for row in ranking.rows]
    for row in images:
        row["pixels"] = f"{row['width']} \u00d7 {row['height']}"
    columns = [column for column in tables.IMAGES if column.name != "variant" or len(variants) > 1]
    found["images"] = (tables.shown(columns, images), images)
    return found


def _name(uri: str) -> str:
    """A short name for a corpus: the last folder of its URI."""
    return uri.rstrip("/").rpartition("/")[2] or uri


def _svg(data: bytes) -> str:
    return _data_uri(data, "image/svg+xml")


def _data_uri(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
