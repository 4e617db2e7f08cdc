"""Commands for jobs on a Ray cluster."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Annotated, Literal

from ncbatch.cli.console import out, print_table, say
from ncbatch.cli.flags import command
from ncbatch.errors import Terminated, UsageError
from ncbatch.exit_codes import ExitCode
from ncbatch.settings import Section, Setting
from ncbatch.words import duration

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

    from ncbatch.driver.jobs import Dashboard, Job

JOB = Section("the job", 4)
DashboardUrl = Annotated[str | None, Setting(
    "the cluster's dashboard, which takes the jobs", "URL",
    default="RAY_API_SERVER_ADDRESS or RAY_ADDRESS where one is set, else http://127.0.0.1:8265",
    environment=True,
), JOB]  # fmt: skip


@command
def job(
    action: Annotated[Literal["list", "status", "logs", "follow", "stop"], Setting(
        "list: all jobs of ncbatch on the cluster; status, logs, stop: of one; follow: print its log until "
        "it ends, and exit with its exit code", "ACTION",
    )],
    job: Annotated[str | None, Setting(
        "the id that `ncbatch submit` printed; list needs none", "JOB",
    )] = None,
    /,
    *,
    dashboard: DashboardUrl = None,
    json: Annotated[bool, Setting("print list and status as JSON")] = False,
) -> int:  # fmt: skip
    """Lists, follows, reads or stops submitted jobs."""
    from ncbatch.driver import jobs

    if action != "list" and job is None:
        raise UsageError(f"job {action}: which one? `ncbatch job list` shows the jobs on the cluster")
    cluster = jobs.find_dashboard(dashboard)
    if dashboard is None and cluster.url != jobs.DEFAULT_DASHBOARD:
        say(f"using the cluster at {cluster.url}, as {cluster.source} says")
    client = jobs.connect(cluster)
    if job is None or action == "list":
        return _list(jobs.jobs(client), as_json=json)
    if action == "follow":
        return follow(client, job, cluster)
    if action == "logs":
        out.print(jobs.logs(client, job), end="")
    elif action == "status":
        told = jobs.status(client, job)
        if json:
            out.print_json(data={"job": job, "status": told})
        else:
            out.print(told)
    else:
        out.print("stopping" if jobs.stop(client, job) else "it had ended already")
    return ExitCode.OK


def follow(client: JobSubmissionClient, job: str, dashboard: Dashboard) -> int:
    """Prints a job's log until it ends; returns its exit code."""
    from ncbatch.driver import jobs

    try:
        return jobs.follow(client, job)
    except KeyboardInterrupt as interrupt:
        say(f"the job keeps running; end it with `ncbatch job stop {job}{dashboard.flag}`")
        return ExitCode.TERMINATED if isinstance(interrupt, Terminated) else ExitCode.INTERRUPTED


def _list(jobs: list[Job], *, as_json: bool) -> ExitCode:
    if as_json:
        out.print_json(data=[dataclasses.asdict(job) for job in jobs], default=str)
        return ExitCode.OK
    if not jobs:
        say("the cluster knows no jobs of ncbatch")
        return ExitCode.OK
    print_table(("job", "status", "started", "took", "output"), [_cells(job) for job in jobs])
    return ExitCode.OK


def _cells(job: Job) -> tuple[str | None, ...]:
    if job.started_at is None:
        return (job.id, job.status, None, None, job.output)
    took = (job.ended_at or datetime.now(timezone.utc)) - job.started_at
    started = job.started_at.astimezone().strftime("%Y-%m-%d %H:%M")
    return (job.id, job.status, started, duration(took.total_seconds()), job.output)
