"""Commands that evaluate: a report on a run, and a run made to be reported on."""

from __future__ import annotations

import argparse
import contextlib
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ncbatch.cli.common import open_run, store_options
from ncbatch.cli.console import out
from ncbatch.errors import NcbatchError, UsageError, unknown
from ncbatch.store import join_uri, open_store

if TYPE_CHECKING:
    from ncbatch.report.bd_rate import Curve
    from ncbatch.report.evaluation import Evaluation

log = logging.getLogger(__name__)


def report(args: argparse.Namespace) -> int:
    _check_flags(args)
    output = open_run(args, args.output)  # told before the imports, which take seconds
    from ncbatch.report.evaluation import evaluate
    from ncbatch.report.page import PageOptions, build
    from ncbatch.report.rendering import write
    from ncbatch.report.rows import Rows

    rows = Rows.of(output)
    evaluation = evaluate(output, rows)
    images = tuple(args.images.split(",")) if args.images else ()
    rows.require_images(images)
    if args.reference is not None and args.reference not in evaluation.series:
        known = ", ".join(repr(label) for label in evaluation.series)
        raise UsageError(f"--reference: the run has no series {args.reference!r}; it has {known}")
    published = _published(args, evaluation)
    destination = open_store(args.out or join_uri(output.uri, "report"), store_options(args), create=True)
    options = PageOptions(args.reference, args.price_per_hour, images)
    found = build(evaluation, rows, output, published, options)
    corpus = None
    if not args.no_images:
        from ncbatch.report.comparisons import choose, compare
        from ncbatch.report.originals import Images
        from ncbatch.report.thumbnails import read_gallery

        shown = Images(output, evaluation.facts.spec, store_options(args))
        corpus = shown.corpus
        found.comparisons = compare(evaluation, rows, shown, images or choose(rows))
        if args.thumbnails != 0:
            found.gallery = read_gallery(evaluation, rows, shown, args.thumbnails)
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
    return 0


def _check_flags(args: argparse.Namespace) -> None:
    for flag, given in (("--images", args.images), ("--thumbnails", args.thumbnails)):
        if args.no_images and given:
            raise UsageError(f"--no-images shows no images; leave it out, or {flag}")


def _published(args: argparse.Namespace, evaluation: Evaluation) -> list[Curve]:
    """The published curves of a data set, of the package or of a table of the user's own.

    A data set that only the corpus's name tells of is drawn beside curves, not beside a single point.
    """
    from ncbatch.report.published import curves, parse_points, published_points
    from ncbatch.store.objects import read_object

    if args.published is None:
        points = published_points()
    else:
        try:
            points = parse_points(read_object(args.published, store_options(args)).decode(), args.published)
        except UnicodeDecodeError as error:
            raise NcbatchError(f"{args.published} is not a CSV table: {error}") from error
    datasets = sorted({point.dataset for point in points})
    corpus = evaluation.corpus.lower()
    wanted = args.published is not None or evaluation.has_curves
    dataset = args.dataset or next((name for name in datasets if wanted and name in corpus), "none")
    if dataset == "none":
        return []
    if dataset not in datasets:
        raise UsageError(f"--dataset: {unknown(dataset, (*datasets, 'none'))}")
    return list(curves(points, dataset).values())


def evaluate(args: argparse.Namespace) -> int:
    """A run of methods x models and codecs x qualities, and the report on it."""
    _check_flags(args)  # not only when the run is over
    from ncbatch.cli.dry_run import print_plan
    from ncbatch.cli.encode import encode_and_summarise, encode_options, which_images
    from ncbatch.codec.methods import CODECS, METHODS, PACKED_METHODS
    from ncbatch.models import catalog
    from ncbatch.plan.request import Request, expand, make_spec

    if args.lmbdas:
        rates = {lmbda: catalog.nearest_builtin(lmbda, args.ladder) for lmbda in args.lmbdas}
    else:
        rates = {lmbda: name for name, lmbda in catalog.builtin_models(args.ladder).items()}
    methods, codecs = _words(args.methods), _words(args.codecs)
    requests: list[Request] = []
    _check_known("--methods", methods, METHODS)
    _check_known("--codecs", codecs, CODECS)
    for lmbda, model in rates.items():
        for method in methods:
            # Those that pack need the other kind of model; a ladder of that kind serves all methods.
            packs = method in PACKED_METHODS
            fitting_model = catalog.nearest_builtin(lmbda, "bits-back") if packs else model
            entry = {"method": [method], "model": fitting_model, "lmbda": lmbda, "steps": args.steps}
            requests += expand(entry | {"name": "{method}-{lmbda}"}, "--methods")
    if codecs:
        requests += expand({"method": codecs, "quality": args.qualities}, "--codecs")
    options = store_options(args)
    spec = make_spec(args.corpus, options, requests, **which_images(args))
    run_options = encode_options(args)
    if args.dry_run:
        return print_plan(args, spec, run_options)
    code = encode_and_summarise(args, spec, run_options)
    return report(args) or code


def _check_known(flag: str, words: Sequence[str], known: Sequence[str]) -> None:
    for word in words:
        if word not in known:
            raise UsageError(f"{flag}: {unknown(word, known)}")


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]
