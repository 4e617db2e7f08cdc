"""The command that makes a run of several methods and codecs, and reports on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from ncbatch.cli.common import Corpus, DryRun, Output, open_corpus
from ncbatch.cli.dry_run import print_plan
from ncbatch.cli.encode import HowToEncode, InputsGiven, encode_and_summarise
from ncbatch.cli.flags import command
from ncbatch.cli.report import REPORT, Place, check, write_report
from ncbatch.codec.methods import CODECS, METHODS, PACKED_METHODS
from ncbatch.errors import UsageError, unknown
from ncbatch.exit_codes import ExitCode
from ncbatch.report.options import PageOptions
from ncbatch.settings import Numbers, Section, Setting, positive_float, positive_int, quality, words

if TYPE_CHECKING:
    from ncbatch.plan.request import Request

_COMPARED = Section("what is compared", 1)

Ladder = Literal["base", "bits-back"]


@command
def evaluate(
    corpus: Corpus,
    output: Output,
    /,
    *,
    dry_run: DryRun = False,
    ladder: Annotated[Ladder, Setting(
        "kind of the built-in models that the methods use (those of bits-back always use bits-back)", "KIND",
    ), _COMPARED] = "base",
    methods: Annotated[tuple[str, ...], Setting(
        f"methods to compare, of {', '.join(METHODS)}", "NAME,...", words,
    ), _COMPARED] = ("amortized", "sga"),
    lmbdas: Annotated[tuple[float, ...], Setting(
        "rates to compare at, each with the built-in model trained nearest to it", "WEIGHT,...",
        Numbers(positive_float), default="those of all built-in models",
    ), _COMPARED] = (),
    steps: Annotated[int, Setting(
        "steps of refinement, of the methods that refine", "N", positive_int,
    ), _COMPARED] = 200,
    codecs: Annotated[tuple[str, ...], Setting(
        f"classical codecs to compare with, of {', '.join(CODECS)}", "NAME,...", words, default="none",
    ), _COMPARED] = (),
    qualities: Annotated[tuple[int, ...], Setting(
        "qualities of the classical codecs", "Q,...", Numbers(quality),
    ), _COMPARED] = (20, 40, 60, 80, 90),
    inputs: InputsGiven,
    options: HowToEncode,
    page: Annotated[PageOptions, REPORT],
    place: Place = None,
) -> ExitCode:  # fmt: skip
    """Encodes by methods x models and codecs x qualities, and reports on it."""
    check(page)  # not only when the run is over
    _check_known("--methods", methods, METHODS)
    _check_known("--codecs", codecs, CODECS)
    open_corpus(corpus, options.store)
    from ncbatch.plan.request import expand, make_spec

    requests = list(_learned(ladder, methods, lmbdas, steps))
    if codecs:
        requests += expand({"method": list(codecs), "quality": list(qualities)}, "--codecs")
    spec = make_spec(corpus, options.store, requests, **inputs)
    price = options.budget.price_per_hour
    if dry_run:
        return print_plan(spec, output, options)
    code = encode_and_summarise(spec, output, options)
    return write_report(output, place, replace(page, price_per_hour=price), options.store) or code


def _learned(ladder: Ladder, methods: Sequence[str], lmbdas: Sequence[float], steps: int) -> list[Request]:
    """The variants of learned methods: each at each rate, with the model for it."""
    from ncbatch.models import catalog
    from ncbatch.plan.request import expand

    if lmbdas:
        rates = {lmbda: catalog.nearest_builtin(lmbda, ladder) for lmbda in lmbdas}
    else:
        rates = {lmbda: name for name, lmbda in catalog.builtin_models(ladder).items()}
    requests: list[Request] = []
    for lmbda, model in rates.items():
        for method in methods:
            # Those that pack need the other kind of model; a ladder of that kind serves all methods.
            packs = method in PACKED_METHODS
            fitting_model = catalog.nearest_builtin(lmbda, "bits-back") if packs else model
            entry: dict[str, Any] = {
                "method": [method],
                "model": fitting_model,
                "lmbda": lmbda,
                "steps": steps,
                "metadata": "strip",  # codecs are compared
            }
            requests += expand(entry | {"name": "{method}-{lmbda}"}, "--methods")
    return requests


def _check_known(flag: str, words: Sequence[str], known: Sequence[str]) -> None:
    for word in words:
        if word not in known:
            raise UsageError(f"{flag}: {unknown(word, known)}")
