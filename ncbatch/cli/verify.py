"""The command that finds what is damaged in a run, and has it set right."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from ncbatch.cli.common import Json, Run, Storage, open_run, open_run_store, store_words
from ncbatch.cli.console import out, say
from ncbatch.cli.findings import (
    Found,
    OnACluster,
    SampleOf,
    check_and_show,
    check_options,
    report_findings,
)
from ncbatch.cli.flags import command
from ncbatch.exit_codes import ExitCode
from ncbatch.settings import Setting
from ncbatch.store import Store, StoreOptions
from ncbatch.words import counted

if TYPE_CHECKING:
    from ncbatch.decoding.sample import Sample
    from ncbatch.driver.options import CheckOptions
    from ncbatch.plan.generations import StandingRow
    from ncbatch.plan.spec import RunSpec


@command
def verify(
    run: Run,
    /,
    *,
    variant: Annotated[str | None, Setting(
        "check only this variant of the run", "NAME", default="all of them",
    )] = None,
    repair: Annotated[bool, Setting(
        "plan damaged and missing images again, for the next `ncbatch encode` of the run, and put lost "
        "checkpoints back", default="only report",
    )] = False,
    sample: SampleOf = None,
    json: Json = False,
    cluster: OnACluster,
    store: Storage,
) -> ExitCode:  # fmt: skip
    """Checks that every row's bytes are there, hash as committed and decode."""
    check_options(cluster)
    output = open_run(run, store)
    from ncbatch.decoding.repair import planned_already, restore_models
    from ncbatch.plan.spec import read_run
    from ncbatch.plan.status import run_status

    spec = read_run(output).spec
    if repair:
        restore_models(output, spec, store)
    if cluster.ray_address is None:
        found = _verified_here(output, variant, sample)
    else:
        found = _verified_on_cluster(output, variant, sample, cluster, store)
    if json:
        for _ in found.noted():
            pass  # they are kept
    else:
        report_findings(found, "verified: there, hashed as committed and decoded")
    code = found.code
    damaged = [finding.damaged for finding in found.problems if finding.damaged is not None]
    planned = 0
    if damaged:
        planned = _plan_again(spec, output, damaged, store) if repair else planned_already(output, damaged)
    stands = run_status(output)
    with contextlib.suppress(BrokenPipeError):  # the exit code is what was found, whoever reads
        if json:
            counts = {"verified": found.fine, "planned_again": planned}
            counts |= {"failed_rows": stands.summary.failed, "pending": stands.pending}
            out.print_json(data=counts | {"problems": found.as_json()})
            return code
        if stands.summary.failed or stands.pending:
            failed, pending = counted(stands.summary.failed, "rows"), counted(stands.pending, "images")
            out.print(f"{failed} failed, {pending} pending")
        if not repair and len(damaged) > planned:
            again = shlex.join(["ncbatch", "verify", run, "--repair", *store_words(store)])
            which = f"the other {len(damaged) - planned}" if planned else "them"
            out.print(f"`{again}` plans {which} again")
        if planned:
            _print_encode_command(spec, output, planned, store)
    return code


def _verified_here(output: Store, variant: str | None, sample: Sample | None) -> Found:
    from ncbatch.decoding.chosen_rows import read_rows
    from ncbatch.decoding.run_reader import RunReader

    rows = None if sample is None else read_rows(output, variant, sample)
    return Found(RunReader(output, variant=variant, rows=rows).verify())


def _verified_on_cluster(
    output: Store, variant: str | None, sample: Sample | None, cluster: CheckOptions, store: StoreOptions
) -> Found:
    from ncbatch.decoding.check_plan import Scope

    scope = Scope(kind="verify", variant=variant, sample=sample.text if sample else None)
    return check_and_show(output, scope, cluster, store)


def _print_encode_command(spec: RunSpec, output: Store, planned: int, options: StoreOptions) -> None:
    """The command that goes on from rows that are planned again."""
    from ncbatch.cli.encode_command import encode_command

    out.print(f"{counted(planned, 'damaged rows')} planned again; this command encodes them:")
    out.print(encode_command(spec, output.uri, store_words(options)))


def _plan_again(spec: RunSpec, output: Store, damaged: Sequence[StandingRow], options: StoreOptions) -> int:
    """Plans damaged rows again, and says why where it cannot; how many are planned."""
    from ncbatch.decoding.repair import plan_repair

    repair = plan_repair(output, open_run_store(spec.corpus, options), damaged)
    for loss in repair.losses:
        say(f"{loss.image_key} ({loss.variant}) is not planned again: {loss.why}")
    return repair.planned
