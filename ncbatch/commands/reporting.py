"""Commands that evaluate: a report on a run, and a run made to be reported on."""

from __future__ import annotations

import argparse
import logging
from typing import TYPE_CHECKING

from ncbatch.commands.common import open_run_store, store_options
from ncbatch.console import out
from ncbatch.errors import NcbatchError, UsageError
from ncbatch.store import StoreError, open_store

if TYPE_CHECKING:
    from ncbatch.report.bd_rate import Curve

log = logging.getLogger(__name__)


def report(args: argparse.Namespace) -> int:
    from ncbatch.report.evaluation import evaluate
    from ncbatch.report.page import build, write
    from ncbatch.report.relaxations import annealed_objective, rounding_probability

    output = open_run_store(args, args.output)
    evaluation = evaluate(output)
    if args.reference is not None and args.reference not in evaluation.series:
        known = ", ".join(repr(label) for label in evaluation.series)
        raise UsageError(f"--reference: the run has no series {args.reference!r}; it has {known}")
    published = _published(args, evaluation.corpus)
    destination = open_store(args.out, store_options(args), create=True)
    found = build(evaluation, output, published, reference=args.reference, price_per_hour=args.price_per_hour)
    found.figures |= {
        "rounding_probability": rounding_probability(),
        "annealed_objective": annealed_objective(),
    }
    if not args.no_pictures:
        from ncbatch.report.pictures import choose, compare
        from ncbatch.runs.reading import RunReader

        keys = args.images.split(",") if args.images else choose(evaluation)
        try:
            corpus = open_store(evaluation.corpus, store_options(args))
            found.comparisons = compare(evaluation, RunReader(output), corpus, keys)
        except StoreError as error:
            log.warning("no pictures are compared: %s", error)
    write(found, destination)
    for note in evaluation.notes:
        log.info("%s", note)
    out.print(f"{destination.uri}index.html")
    return 0


def _published(args: argparse.Namespace, corpus: str) -> list[Curve]:
    """The published curves of a data set, of the package or of a table of the user's own."""
    from ncbatch.report.published import curves, parse_points, published_points
    from ncbatch.runs.objects import read_object

    if args.published is None:
        points = published_points()
    else:
        try:
            points = parse_points(read_object(args.published, store_options(args)).decode(), args.published)
        except UnicodeDecodeError as error:
            raise NcbatchError(f"{args.published} is no CSV table: {error}") from error
    datasets = sorted({point.dataset for point in points})
    dataset = args.dataset or next((name for name in datasets if name in corpus.lower()), "none")
    if dataset == "none":
        return []
    if dataset not in datasets:
        raise UsageError(f"--dataset: nothing is known of {dataset!r}; there are {', '.join(datasets)}, none")
    return list(curves(points, dataset).values())


def evaluate(args: argparse.Namespace) -> int:
    """A run of methods x models and codecs x qualities, and the report on it."""
    from ncbatch.codec import zoo
    from ncbatch.commands.encoding import encode_and_summarise, encode_options
    from ncbatch.runs.request import Request, expand, make_spec

    if args.lmbdas:
        asked = _numbers("--lmbdas", args.lmbdas)
        if min(asked) <= 0:
            raise UsageError("--lmbdas: every lmbda must be greater than 0")
        rates = {lmbda: zoo.nearest_builtin(lmbda, args.ladder) for lmbda in asked}
    else:
        rates = {lmbda: name for name, lmbda in zoo.builtin_models(args.ladder).items()}
    methods, codecs = _words(args.methods), _words(args.codecs)
    requests: list[Request] = []
    for lmbda, model in rates.items():
        entry = {"method": methods, "model": model, "lmbda": lmbda, "steps": args.steps}
        requests += expand(entry | {"name": "{method}-{lmbda}"}, "--methods")
    if codecs:
        qualities = [int(q) for q in _numbers("--qualities", args.qualities)]
        requests += expand({"method": codecs, "quality": qualities}, "--codecs")
    options = store_options(args)
    spec = make_spec(args.corpus, options, requests, include=args.include or (), manifest=args.manifest)
    code = encode_and_summarise(args, spec, encode_options(args))
    args.out = args.out or f"{open_store(args.output, options).uri}report/"
    return report(args) or code


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _numbers(flag: str, text: str) -> list[float]:
    try:
        return [float(word) for word in _words(text)]
    except ValueError:
        raise UsageError(f"{flag} {text!r} is no list of numbers like 10,20,30") from None
