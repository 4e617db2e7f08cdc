"""The commands that send a run to a cluster, and carry it out there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from ncbatch.cli.common import Corpus, DryRun, Output
from ncbatch.cli.console import err, out
from ncbatch.cli.dry_run import print_plan
from ncbatch.cli.encode import (
    HowToEncode,
    InputsGiven,
    SpecFile,
    VariantGiven,
    encode_and_summarise,
    make_run_spec,
    with_profile,
)
from ncbatch.cli.flags import command
from ncbatch.cli.jobs import JOB, DashboardUrl, follow
from ncbatch.exit_codes import ExitCode
from ncbatch.settings import Setting
from ncbatch.store import open_store

if TYPE_CHECKING:
    from ncbatch.plan.spec import RunSpec


@command
def submit(
    corpus: Corpus,
    output: Output,
    /,
    *,
    dry_run: DryRun = False,
    spec: SpecFile = None,
    variant: VariantGiven,
    inputs: InputsGiven,
    options: HowToEncode,
    dashboard: DashboardUrl = None,
    wait: Annotated[bool, Setting(
        "print the job's log until it ends, and exit with its exit code; without this, submit returns at "
        "once",
    ), JOB] = False,
    working_dir: Annotated[str | None, Setting(
        "checkout of ncbatch that the job runs", "DIR", default="this one",
    ), JOB] = None,
) -> int:  # fmt: skip
    """Encodes as a job on a Ray cluster."""
    from ncbatch.driver import jobs

    cluster = jobs.find_dashboard(dashboard)
    # What is wrong with the request is better said here than in a job's log.
    options = with_profile(options, spec)
    asked = make_run_spec(corpus, spec, variant, inputs, options.store)
    if dry_run:
        return print_plan(asked, output, options)
    place = open_store(output, options.store, create=True).uri
    root = jobs.source_root(working_dir)
    client = jobs.connect(cluster)
    job = jobs.submit(client, jobs.EncodeRequest(with_absolute_paths(asked), place, options), root)
    out.print(job)
    err.print(f"submitted to the cluster at {cluster.url}")
    if wait:
        return follow(client, job, cluster)
    err.print(
        f"follow it with `ncbatch job follow {job}{cluster.flag}`, "
        f"end it with `ncbatch job stop {job}{cluster.flag}`"
    )
    return ExitCode.OK


def with_absolute_paths(spec: RunSpec) -> RunSpec:
    """A spec that means the same in another folder: models may be named by paths of this one."""
    variants = (
        variant.model_copy(update={"model": str(Path(variant.model).resolve())})
        if variant.model and Path(variant.model).exists()
        else variant
        for variant in spec.variants
    )
    return spec.model_copy(update={"variants": tuple(variants)})


@command
def encode_request(request: Annotated[str, Setting("what `ncbatch submit` wrote", "JSON")], /) -> ExitCode:
    """Carries out a run that was submitted."""
    from ncbatch.driver.jobs import EncodeRequest

    asked = EncodeRequest.from_json(request)
    return encode_and_summarise(asked.spec, asked.output, asked.options)
