"""What a report shows: everything is gathered here; `rendering` draws and writes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ncbatch.metrics.failures import Failures, failures_in
from ncbatch.metrics.sql import one_of
from ncbatch.metrics.traces import read_traces
from ncbatch.report import figures, run_figures
from ncbatch.report.bd_rate import Curve
from ncbatch.report.distributions import Distribution, read_distributions
from ncbatch.report.evaluation import Evaluation
from ncbatch.report.options import PageOptions
from ncbatch.report.overview import Overview, read_overview
from ncbatch.report.rankings import Ranking, read_rankings
from ncbatch.report.rows import SAVED_PERCENT, Rows
from ncbatch.report.shown_images import Comparison, Gallery
from ncbatch.report.style import Drawing
from ncbatch.report.tables import Table, bd_table, default_reference, variants_table
from ncbatch.report.throughput import Throughput, read_throughput
from ncbatch.store import Store

_DEFAULTS = PageOptions()
_FAILED_EXAMPLES = 5

_NAMED_IMAGES = 40
"""Images that an axis can name."""

_TRACED_IMAGES = f"""
select distinct image_key from (
    select image_key from metrics where status = 'ok' and amortized_rd_loss is not null
    order by image_key limit {figures.TRACED} * {{variants}})
order by image_key limit {figures.TRACED}
"""

_UNITS = "select distinct unit from metrics where image_key {keys} order by unit"

_PER_IMAGE = f"""
select image_key, variant, {SAVED_PERCENT} as saved from metrics
where status = 'ok' and variant {{variants}} and {SAVED_PERCENT} is not null order by variant, image_key
"""


@dataclass
class Report:
    """Everything that is shown. A part that is None or empty has no place on the page.

    Attributes:
        storage_price: of a gigabyte for a month.
        worker_seconds: for which the run has had workers, by its driver's word; 0 where there is none.
    """

    evaluation: Evaluation
    rows: Rows
    overview: Overview
    price_per_hour: float | None = None
    storage_price: float | None = None
    worker_seconds: float = 0.0
    failures: Sequence[Failures] = ()
    distributions: list[Distribution] = field(default_factory=list)
    throughput: Throughput | None = None
    rankings: list[Ranking] = field(default_factory=list)
    figures: dict[str, Drawing] = field(default_factory=dict)
    tables: dict[str, Table] = field(default_factory=dict)
    gallery: Gallery | None = None
    comparisons: list[Comparison] = field(default_factory=list)


def build(
    evaluation: Evaluation,
    rows: Rows,
    output: Store,
    published: Sequence[Curve] = (),
    options: PageOptions = _DEFAULTS,
) -> Report:
    """Gathers everything but images, which are the caller's to add, since they need a model.

    R-D curves and BD-rates are shown where there is something to compare: several rates, or published points.
    """
    overview = read_overview(rows)
    report = Report(evaluation, rows, overview, options.price_per_hour, options.storage_price)
    report.failures = failures_in(rows.table, _FAILED_EXAMPLES)
    report.distributions = read_distributions(rows)
    report.throughput = read_throughput(rows)
    report.rankings = read_rankings(rows, overview.ok) if overview.ok else []
    report.tables["variants"] = variants_table(evaluation, overview, options.price_per_hour)
    drawn: dict[str, Drawing | None] = {}
    if evaluation.series and (evaluation.has_curves or published):
        base = evaluation.curve(options.reference or default_reference(evaluation))
        drawn["rd_psnr"] = lambda: figures.rd_psnr(evaluation, published)
        drawn["rd_ms_ssim"] = figures.rd_ms_ssim(evaluation)
        drawn["rate_savings"] = figures.rate_savings(evaluation, base)
        report.tables["bd_rates"] = bd_table(evaluation, [base, *published])
    drawn |= _of_refinement(report, output, options.images)
    drawn |= {f"spread_{found.quantity.name}": run_figures.spread(found) for found in report.distributions}
    if report.throughput is not None:
        drawn["throughput"] = run_figures.throughput(report.throughput)
    report.figures = {name: figure for name, figure in drawn.items() if figure is not None}
    return report


def _traced(report: Report) -> list[str]:
    sql = _TRACED_IMAGES.format(variants=len(report.overview.variants))
    return [row["image_key"] for row in report.rows.select(sql)]


def _of_refinement(report: Report, output: Store, images: Sequence[str]) -> dict[str, Drawing | None]:
    refined = [name for label in report.evaluation.refined for name in report.evaluation.members[label]]
    if not refined:
        return {}
    rows = report.rows
    keys = list(images)[: figures.TRACED] or _traced(report)
    units = [row["unit"] for row in rows.select(_UNITS.format(keys=one_of(keys)))] if keys else []
    traces = read_traces(output, units)
    few = report.overview.images <= _NAMED_IMAGES
    per_image = rows.select(_PER_IMAGE.format(variants=one_of(refined))) if few else []
    return {
        "image_savings": figures.image_savings(per_image),
        "convergence": figures.convergence(traces, keys),
    }
