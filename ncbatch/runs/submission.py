"""Runs as Ray jobs: submitting them to a cluster, following, reading and stopping them."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from ray.job_submission import JobStatus, JobSubmissionClient

from ncbatch.errors import NcbatchError, UsageError

log = logging.getLogger(__name__)

DEFAULT_DASHBOARD = "http://127.0.0.1:8265"
ENTRY_POINT = "jobs/encode.py"
_EXCLUDES = [".git", ".venv", "venv", "**/__pycache__", "*.egg-info", "build", "dist", "scratch", "tests"]
_PATIENCE_SECONDS = 10.0  # a dashboard comes up some seconds after its cluster


class SubmissionError(NcbatchError):
    """The cluster could not be reached, or does not know the job."""


def check_dashboard(url: str) -> None:
    """Refuses to send work, and what it may carry, readable and unauthenticated over a network.

    Raises:
        UsageError: not a URL, or plain http to another machine without a token.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"--dashboard {url} is not a URL such as {DEFAULT_DASHBOARD}")
    has_token = os.environ.get("RAY_AUTH_MODE") == "token"
    if parts.scheme == "http" and not _is_loopback(parts.hostname) and not has_token:
        raise UsageError(
            f"--dashboard {url} is plain http to another machine without a token; anyone who reaches it "
            "can run code there. Use https, tunnel it to 127.0.0.1 over ssh, or set RAY_AUTH_MODE=token"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def connect(dashboard: str) -> JobSubmissionClient:
    """A client of a cluster's dashboard, which may take a while to come up.

    Raises:
        SubmissionError: nothing answers.
    """
    check_dashboard(dashboard)
    deadline, waiting = time.monotonic() + _PATIENCE_SECONDS, False
    while True:
        try:
            return JobSubmissionClient(dashboard)
        except (ConnectionError, RuntimeError) as error:
            if time.monotonic() > deadline:
                reason = str(error).strip().splitlines()[0]
                raise SubmissionError(
                    f"no Ray dashboard answers at {dashboard} ({reason}); start a cluster with "
                    "`ray start --head`, or name its dashboard with --dashboard"
                ) from error
            if not waiting:
                log.info("waiting for the dashboard at %s", dashboard)
            waiting = True
            time.sleep(1.0)


def source_root(given: str | None) -> Path:
    """The checkout whose `jobs/encode.py` the job runs.

    Raises:
        UsageError: there is none.
    """
    root = Path(given).resolve() if given else Path(__file__).resolve().parents[2]
    if not (root / ENTRY_POINT).is_file():
        raise UsageError(f"{root} has no {ENTRY_POINT}; name a checkout of ncbatch with --working-dir")
    return root


def submit(
    client: JobSubmissionClient, arguments: Sequence[str], metadata: dict[str, str], root: Path
) -> str:
    """Submits an encoding with the arguments of `ncbatch encode`; returns the job's id.

    Nothing of this machine's environment travels along: the cluster has credentials of its own.
    """
    return str(
        client.submit_job(
            entrypoint=shlex.join(["python", ENTRY_POINT, *arguments]),
            runtime_env={"working_dir": str(root), "excludes": _EXCLUDES},
            metadata=metadata,
        )
    )


_Answer = TypeVar("_Answer")


def _asked(job: str, question: Callable[[], _Answer]) -> _Answer:
    """Ray's client raises a bare RuntimeError for every answer it does not like."""
    try:
        return question()
    except RuntimeError as error:
        raise SubmissionError(f"the cluster does not know the job {job}, or refuses: {error}") from error


def follow(client: JobSubmissionClient, job: str) -> int:
    """Prints a job's log until it ends; its exit code."""

    async def tail() -> None:
        async for lines in client.tail_job_logs(job):
            print(lines, end="", flush=True)  # noqa: T201 (a log is passed on as it is)

    _asked(job, lambda: asyncio.run(tail()))
    while not client.get_job_status(job).is_terminal():
        time.sleep(0.5)
    info = client.get_job_info(job)
    if info.driver_exit_code is not None:
        return int(info.driver_exit_code)
    return 0 if info.status == JobStatus.SUCCEEDED else 1


def logs(client: JobSubmissionClient, job: str) -> str:
    return str(_asked(job, lambda: client.get_job_logs(job)))


def status(client: JobSubmissionClient, job: str) -> str:
    return str(_asked(job, lambda: client.get_job_status(job)).value)


def stop(client: JobSubmissionClient, job: str) -> bool:
    """Stops a job; False when it was over already."""
    return bool(_asked(job, lambda: client.stop_job(job)))
