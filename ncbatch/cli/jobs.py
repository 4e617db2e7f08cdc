"""Commands for jobs on a Ray cluster."""

from __future__ import annotations

import argparse
import dataclasses
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from ncbatch.cli.common import open_corpus, store_options
from ncbatch.cli.console import err, out, print_table
from ncbatch.cli.dry_run import print_plan
from ncbatch.cli.encode import encode_options, make_run_spec
from ncbatch.errors import Terminated, UsageError
from ncbatch.exit_codes import ExitCode
from ncbatch.store import open_store
from ncbatch.words import duration

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

    from ncbatch.driver.jobs import Dashboard, Job


def submit(args: argparse.Namespace) -> int:
    from ncbatch.cli.job_arguments import encode_words
    from ncbatch.driver import jobs

    dashboard = jobs.find_dashboard(args.dashboard)
    options = encode_options(args)
    open_corpus(args, args.corpus)
    spec = make_run_spec(args)  # what is wrong with the request is better said here than in a job's log
    if args.dry_run:
        return print_plan(args, spec, options)
    for name in ("corpus", "output"):
        setattr(args, name, open_store(getattr(args, name), store_options(args), create=True).uri)
    for name in ("model", "manifest", "spec"):  # paths are of this folder, not of the job's
        value = getattr(args, name)
        if value and Path(value).exists():
            setattr(args, name, str(Path(value).resolve()))
    root = jobs.source_root(args.working_dir)
    client = jobs.connect(dashboard)
    metadata = {jobs.OUTPUT: args.output, jobs.DIGEST: spec.digest}
    job = jobs.submit(client, encode_words(args), metadata, root)
    out.print(job)
    err.print(f"submitted to the cluster at {dashboard.url}")
    if not args.wait:
        err.print(
            f"follow it with `ncbatch job follow {job}{dashboard.flag}`, "
            f"end it with `ncbatch job stop {job}{dashboard.flag}`"
        )
        return 0
    return _follow(client, job, dashboard)


def _follow(client: JobSubmissionClient, job: str, dashboard: Dashboard) -> int:
    from ncbatch.driver import jobs

    try:
        return jobs.follow(client, job)
    except KeyboardInterrupt as interrupt:
        err.print(f"the job keeps running; end it with `ncbatch job stop {job}{dashboard.flag}`")
        return ExitCode.TERMINATED if isinstance(interrupt, Terminated) else ExitCode.INTERRUPTED


def job(args: argparse.Namespace) -> int:
    from ncbatch.driver import jobs

    if args.action != "list" and args.job is None:
        raise UsageError(f"job {args.action}: which one? `ncbatch job list` shows the jobs on the cluster")
    dashboard = jobs.find_dashboard(args.dashboard)
    if args.dashboard is None and dashboard.url != jobs.DEFAULT_DASHBOARD:
        err.print(f"using the cluster at {dashboard.url}, as {dashboard.source} says")
    client = jobs.connect(dashboard)
    if args.action == "list":
        return _list(jobs.jobs(client), as_json=args.json)
    if args.action == "follow":
        return _follow(client, args.job, dashboard)
    if args.action == "logs":
        out.print(jobs.logs(client, args.job), end="")
    elif args.action == "status":
        told = jobs.status(client, args.job)
        if args.json:
            out.print_json(data={"job": args.job, "status": told})
        else:
            out.print(told)
    else:
        out.print("stopping" if jobs.stop(client, args.job) else "it had ended already")
    return 0


def _list(jobs: list[Job], *, as_json: bool) -> int:
    if as_json:
        out.print_json(data=[dataclasses.asdict(job) for job in jobs], default=str)
        return 0
    if not jobs:
        err.print("the cluster knows no jobs of ncbatch")
        return 0
    print_table(("job", "status", "started", "took", "output"), [_cells(job) for job in jobs])
    return 0


def _cells(job: Job) -> tuple[str | None, ...]:
    if job.started_at is None:
        return (job.id, job.status, None, None, job.output)
    took = (job.ended_at or datetime.now(timezone.utc)) - job.started_at
    started = job.started_at.astimezone().strftime("%Y-%m-%d %H:%M")
    return (job.id, job.status, started, duration(took.total_seconds()), job.output)
