"""The command that writes a page about a run."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from ncbatch.cli.common import Run, Storage, open_run
from ncbatch.cli.console import out
from ncbatch.cli.flags import command
from ncbatch.errors import NcbatchError, UsageError, unknown
from ncbatch.exit_codes import ExitCode
from ncbatch.report.options import PageOptions
from ncbatch.settings import Price, Section, Setting
from ncbatch.store import Store, StoreOptions, join_uri, open_store

if TYPE_CHECKING:
    from ncbatch.report.bd_rate import Curve
    from ncbatch.report.evaluation import Evaluation
    from ncbatch.report.rows import Rows

log = logging.getLogger(__name__)


REPORT = Section("the report", 4)
Place = Annotated[str | None, Setting(
    "folder or s3:// prefix for the page", "PLACE", name="out", default="report/ in the run's output",
), REPORT]  # fmt: skip


@command
def report(
    run: Run,
    /,
    *,
    page: Annotated[PageOptions, REPORT],
    price_per_hour: Annotated[Price, REPORT] = None,
    place: Place = None,
    store: Storage,
) -> ExitCode:
    """Writes an HTML page about a run, with figures and tables."""
    check(page)
    return write_report(run, place, replace(page, price_per_hour=price_per_hour), store)


def check(page: PageOptions) -> None:
    """Raises UsageError: what is asked for contradicts itself."""
    for flag, given in (("--images", page.images), ("--thumbnails", page.thumbnails)):
        if page.no_images and given:
            raise UsageError(f"--no-images shows no images; leave it out, or {flag}")
    if page.no_images and page.decode_in_browser:
        raise UsageError("--no-images shows no images; leave it out, or --decode-in-browser")


def write_report(run: str, place: str | None, page: PageOptions, store: StoreOptions) -> ExitCode:
    """Gathers, draws and writes a page, and prints where it is."""
    output = open_run(run, store)  # told before the imports, which take seconds
    from ncbatch.report.rows import Rows

    with Rows.of(output) as rows:
        return _write_page(output, rows, place, page, store)


def _write_page(
    output: Store, rows: Rows, place: str | None, page: PageOptions, store: StoreOptions
) -> ExitCode:
    from ncbatch.driver.progress import read_status
    from ncbatch.report.evaluation import evaluate
    from ncbatch.report.page import build
    from ncbatch.report.rendering import write

    evaluation = evaluate(output, rows)
    rows.require_images(page.images)
    if page.reference is not None and page.reference not in evaluation.series:
        known = ", ".join(repr(label) for label in evaluation.series)
        raise UsageError(f"--reference: the run has no series {page.reference!r}; it has {known}")
    published = _published(page, evaluation, store)
    destination = open_store(place or join_uri(output.uri, "report"), store, create=True)
    found = build(evaluation, rows, output, published, page)
    if (said := read_status(output)) is not None:
        found.worker_seconds = said.worker_seconds
    corpus = None
    if not page.no_images:
        from ncbatch.report.comparisons import choose, compare
        from ncbatch.report.originals import Images
        from ncbatch.report.thumbnails import read_gallery

        shown = Images(output, evaluation.facts.spec, store)
        corpus = shown.corpus
        keys = page.images or choose(rows)
        found.comparisons = compare(evaluation, rows, shown, keys, in_browser=page.decode_in_browser)
        if page.thumbnails != 0:
            found.gallery = read_gallery(evaluation, rows, shown, page.thumbnails)
    if evaluation.has_curves and evaluation.refined:
        from ncbatch.report.relaxations import annealed_objective, rounding_probability

        found.figures |= {
            "rounding_probability": rounding_probability,
            "annealed_objective": annealed_objective,
        }
    write(found, destination, output, corpus)
    for note in evaluation.notes:
        log.info("%s", note)
    with contextlib.suppress(BrokenPipeError):  # of evaluate, the exit code is the run's, whoever reads
        out.print(f"{destination.uri}index.html")
    return ExitCode.OK


def _published(page: PageOptions, evaluation: Evaluation, store: StoreOptions) -> list[Curve]:
    """The published curves of a data set, of the package or of a table of the user's own.

    A data set that only the corpus's name tells of is drawn beside curves, not beside a single point.
    """
    from ncbatch.report.published import curves, parse_points, published_points
    from ncbatch.store.objects import read_object

    if page.published is None:
        points = published_points()
    else:
        try:
            points = parse_points(read_object(page.published, store).decode(), page.published)
        except UnicodeDecodeError as error:
            raise NcbatchError(f"{page.published} is not a CSV table: {error}") from error
    datasets = sorted({point.dataset for point in points})
    corpus = evaluation.corpus.lower()
    wanted = page.published is not None or evaluation.has_curves
    dataset = page.dataset or next((name for name in datasets if wanted and name in corpus), "none")
    if dataset == "none":
        return []
    if dataset not in datasets:
        raise UsageError(f"--dataset: {unknown(dataset, (*datasets, 'none'))}")
    return list(curves(points, dataset).values())
