"""The command that makes a run, or continues one."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from ncbatch.cli.common import Corpus, DryRun, Json, Output, open_corpus, open_run_store, store_words
from ncbatch.cli.consent import ask
from ncbatch.cli.console import out, progress_display, say
from ncbatch.cli.dry_run import print_plan
from ncbatch.cli.flags import Given, command
from ncbatch.cli.progress_line import progress_line
from ncbatch.cli.status import print_summary, summary_content
from ncbatch.cli.variant_flags import INPUTS, VARIANT
from ncbatch.driver.options import EncodeOptions
from ncbatch.errors import UsageError
from ncbatch.exit_codes import ExitCode
from ncbatch.settings import Section, Setting
from ncbatch.store import StoreOptions
from ncbatch.words import counted

if TYPE_CHECKING:
    from collections.abc import Callable

    from ncbatch.driver.notify import Ending
    from ncbatch.driver.progress import Snapshot
    from ncbatch.plan.places import Places
    from ncbatch.plan.spec import RunSpec

log = logging.getLogger(__name__)

_SHOWN_FAILURES = 5

WHAT = Section("what an image becomes (fixed once the run is planned)", 1)
WHICH = Section("which images, and the keys of what becomes of them", 2)
HOW = Section("how it is carried out", 3)

VariantGiven = Annotated[dict[str, Any], VARIANT, WHAT]
InputsGiven = Annotated[dict[str, Any], Given(INPUTS), WHICH]
HowToEncode = Annotated[EncodeOptions, HOW]
SpecFile = Annotated[str | None, Setting(
    "YAML file that describes several variants, in place of the flags below (see docs/how-to/encode.md)",
    "FILE",
    default="one variant, described by these flags",
), WHAT]  # fmt: skip


@command
def encode(
    corpus: Corpus,
    output: Output,
    /,
    *,
    dry_run: DryRun = False,
    json: Json = False,
    spec: SpecFile = None,
    variant: VariantGiven,
    inputs: InputsGiven,
    options: HowToEncode,
) -> ExitCode:
    """Encodes a corpus into a run, or goes on with one."""
    options = with_profile(options, spec)
    asked = make_run_spec(corpus, spec, variant, inputs, options.store)
    if dry_run:
        return print_plan(asked, output, options)
    return encode_and_summarise(asked, output, options, as_json=json)


def with_profile(options: EncodeOptions, spec_file: str | None) -> EncodeOptions:
    """The options with what a spec file says of storage.

    Raises:
        UsageError: it says something that cannot be.
    """
    if spec_file is None:
        return options
    from ncbatch.plan.request import storage_profile

    return replace(options, store=storage_profile(spec_file, options.store))


def make_run_spec(
    corpus: str, spec_file: str | None, variant: dict[str, Any], inputs: dict[str, Any], options: StoreOptions
) -> RunSpec:
    """What is asked for, checked as far as that needs nothing heavy.

    Args:
        spec_file: with several variants, in the place of `variant`.
        variant: fields of one variant.
        inputs: fields of the spec that say which images there are, and where bitstreams go.

    Raises:
        UsageError: a value or a place that cannot be.
    """
    from ncbatch.plan.request import make_spec, read_spec_file

    open_corpus(corpus, options)
    if spec_file and variant:
        field = next(iter(variant))
        flag = field.replace("_", "-")
        raise UsageError(f"--{flag} cannot be given beside --spec; write {field} into {spec_file}")
    requests = read_spec_file(spec_file, options) if spec_file else [variant]
    return make_spec(corpus, options, requests, **inputs)


def encode_and_summarise(
    spec: RunSpec, output: str, options: EncodeOptions, *, as_json: bool = False
) -> ExitCode:
    """Carries a run out, and prints what became of it."""
    from ncbatch.driver.notify import notified

    consent = None if options.yes else ask
    with notified(options.notify, output) as ending, progress_display() as show:
        places = _checked(spec, output, options)
        from ncbatch.driver.encode_corpus import encode_corpus  # torch and Ray, which take seconds

        ending.run = places.output.uri
        summary = encode_corpus(places, options, _showing(show, ending), consent)
        ending.finished(summary)
    with contextlib.suppress(BrokenPipeError):  # the exit code is the run's, whoever reads
        if as_json:
            out.print_json(data={"output": output} | summary_content(summary))
        else:
            print_summary(summary, several=len(spec.variants) > 1)
            report = _command("report", output, options.store)
            _print_missed(output, spec, options.store)
            out.print(
                f"bitstreams and table: {output}; next: `{report}`; query, decode and verify read it, too"
            )
    if not summary.failed:
        return ExitCode.OK
    _print_failures(output, summary.failed, options.store)
    return ExitCode.FAILED


def _showing(show: Callable[[str, bool], None], ending: Ending) -> Callable[[Snapshot], None]:
    """Takes a run's snapshots: shows them, and keeps what a notification of the end says."""

    def take(snapshot: Snapshot) -> None:
        ending.saw(snapshot)
        show(progress_line(snapshot), snapshot.is_over)

    return take


def _checked(spec: RunSpec, output: str, options: EncodeOptions) -> Places:
    """The places of a run; says what is wrong with places and programs before torch and Ray are imported."""
    from ncbatch.plan.places import check_programs, open_places

    places = open_places(spec, output, options.store)
    if not options.ray_address and not os.environ.get("RAY_ADDRESS"):  # elsewhere, workers' machines count
        check_programs(spec)
    return places


def _print_missed(output: str, spec: RunSpec, options: StoreOptions) -> None:
    """Says how many images did not come as near to their target as asked."""
    from ncbatch.codec.recipe import RefinedRecipe
    from ncbatch.metrics.query import query

    if not any(isinstance(v.recipe, RefinedRecipe) and v.recipe.target is not None for v in spec.variants):
        return
    table = query(open_run_store(output, options), "select count(*) as n from metrics where not target_met")
    (missed,) = table.column("n").to_pylist()
    if missed:
        out.print(
            f"{counted(missed, 'images')} missed the target; the nearest that was found was kept, and the "
            "column `target_came` says what it is"
        )


def _print_failures(output: str, count: int, options: StoreOptions) -> None:
    from ncbatch.metrics.query import query

    table = query(
        open_run_store(output, options),
        "select image_key, error_class, error from metrics where status = 'failed' "
        f"order by error_class, image_key limit {_SHOWN_FAILURES}",
    )
    for row in table.to_pylist():
        say(f"failed: {row['image_key']}: {row['error_class']}: {row['error']}")
    if count > _SHOWN_FAILURES:
        say(f"... and {count - _SHOWN_FAILURES} more")
    say(f"`{_command('failures', output, options)}` says what can be done about them")


def _command(name: str, output: str, options: StoreOptions) -> str:
    """A command for this run, ready for a shell."""
    return shlex.join(["ncbatch", name, output, *store_words(options)])
