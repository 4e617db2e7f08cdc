"""Runs as Ray jobs: submitting them to a cluster, following, reading, listing and stopping them."""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

import pydantic

from ncbatch.driver import ray_token
from ncbatch.driver.options import EncodeOptions
from ncbatch.errors import NcbatchError, UsageError, first_line, first_problem
from ncbatch.exit_codes import ExitCode
from ncbatch.plan.spec import RunSpec

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

log = logging.getLogger(__name__)

DEFAULT_DASHBOARD = "http://127.0.0.1:8265"
ENTRY_POINT = "jobs/encode.py"
OUTPUT, DIGEST = "ncbatch_output", "ncbatch_digest"
"""What a job's metadata says of its run."""

# Only what the job runs is uploaded: a checkout also holds the outputs of other runs, data and credentials.
# (Patterns as in .gitignore: the first excludes everything, and "!/." lets Ray enter the checkout itself.)
_EXCLUDES = [
    *("/*", "!/.", "!/jobs", "!/ncbatch", "!/pyproject.toml"),
    *(
        "__pycache__",
        "*.egg-info",
        ".env*",
        "*.pem",
        "*.key",
        "*.p12",
        "id_rsa*",
        "id_ed25519*",
        "id_ecdsa*",
        ".netrc",
        ".aws",
        "credentials*",
    ),
]
_LONGEST_COMMAND = 120_000  # bytes; Linux passes 128 KiB in one word, which is what the shell gets
_PATIENCE_SECONDS = 10.0  # a dashboard comes up some seconds after its cluster
_ENVIRONMENT = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")  # both beat the address that Ray's client is given
_CHATTY = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
    "ray._private.runtime_env.working_dir",
    "ray._private.authentication",
)


class SubmissionError(NcbatchError):
    """The cluster could not be reached, refuses us, or does not know the job."""


@dataclass(frozen=True)
class Dashboard:
    """Where a cluster takes jobs. source: the flag or variable that says so, for messages."""

    url: str
    source: str

    @property
    def flag(self) -> str:
        """What a command needs to reach the same cluster again."""
        return "" if self.url == DEFAULT_DASHBOARD else f" --dashboard {shlex.quote(self.url)}"


def find_dashboard(flag: str | None) -> Dashboard:
    """The dashboard to use: the flag's, else that of RAY_API_SERVER_ADDRESS or RAY_ADDRESS, else the default.

    Raises:
        UsageError: what is given is not a URL, or plain http to another machine without a token.
    """
    named = [(flag, "--dashboard"), *((os.environ.get(name), name) for name in _ENVIRONMENT)]
    url, source = next(((url, by) for url, by in named if url), (DEFAULT_DASHBOARD, "--dashboard"))
    check_dashboard(url, source)
    return Dashboard(url.rstrip("/"), source)


def check_dashboard(url: str, source: str = "--dashboard") -> None:
    """Refuses to send work, and what it may carry, readable and unauthenticated over a network.

    Raises:
        UsageError: not a URL, or plain http to another machine without a token; the message names the source.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        hint = "" if source == "--dashboard" else "; say where jobs go with --dashboard, which comes first"
        raise UsageError(f"{source} {url} is not the URL of a dashboard, such as {DEFAULT_DASHBOARD}{hint}")
    if parts.scheme == "http" and not ray_token.is_loopback(parts.hostname) and not ray_token.is_used():
        raise UsageError(
            f"{source} {url} is plain http to another machine without a token; anyone who reaches it "
            "can run code there. Use https, tunnel it to 127.0.0.1 over ssh, or set RAY_AUTH_MODE=token"
        )


def connect(dashboard: Dashboard) -> JobSubmissionClient:
    """A client of a cluster's dashboard, which may take a while to come up.

    Raises:
        SubmissionError: nothing answers, or it refuses us.
    """
    from ray.exceptions import RayError  # takes seconds; a wrong address is told before
    from ray.job_submission import JobSubmissionClient

    _quieten()
    ray_token.use_if_there(urlsplit(dashboard.url).hostname or "")
    deadline, waiting = time.monotonic() + _PATIENCE_SECONDS, False
    while True:
        try:
            with _without_environment():
                return JobSubmissionClient(dashboard.url)
        except RayError as error:  # AuthenticationError, which older Rays do not have
            raise SubmissionError(ray_token.refusal(dashboard.url)) from error
        except (OSError, RuntimeError, ValueError) as error:
            if time.monotonic() > deadline:
                raise SubmissionError(
                    f"no Ray dashboard answers at {dashboard.url} ({first_line(error)}); start a cluster "
                    "with `ray start --head`, or name its dashboard with --dashboard"
                ) from error
            if not waiting:
                log.info("waiting for the dashboard at %s", dashboard.url)
            waiting = True
            time.sleep(1.0)


def _quieten() -> None:
    """Keeps Ray's account of how it packs a folder from burying the one line that matters."""
    if not log.isEnabledFor(logging.DEBUG):
        for name in _CHATTY:
            logging.getLogger(name).setLevel(logging.ERROR)


@contextmanager
def _without_environment() -> Iterator[None]:
    """Ray's client silently prefers these variables to the address it is given."""
    kept = {name: os.environ.pop(name) for name in _ENVIRONMENT if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


def source_root(given: str | None) -> Path:
    """The checkout whose `jobs/encode.py` the job runs.

    Raises:
        UsageError: there is none.
    """
    root = Path(given).resolve() if given else Path(__file__).resolve().parents[2]
    if not (root / ENTRY_POINT).is_file():
        raise UsageError(f"{root} has no {ENTRY_POINT}; name a checkout of ncbatch with --working-dir")
    return root


@dataclass(frozen=True)
class EncodeRequest:
    """A run to be carried out elsewhere: everything that its driver has to know."""

    spec: RunSpec
    output: str
    options: EncodeOptions

    def to_json(self) -> str:
        """The request as JSON, for `from_json` on the cluster."""
        return _REQUEST.dump_json(self).decode()

    @classmethod
    def from_json(cls, text: str) -> EncodeRequest:
        """The request that `to_json` wrote.

        Raises:
            UsageError: the text is no request, or one of another release.
        """
        try:
            return _REQUEST.validate_json(text)
        except pydantic.ValidationError as error:
            raise UsageError(
                f"this is not a request of this release of ncbatch: {first_problem(error)}"
            ) from error


_REQUEST = pydantic.TypeAdapter(EncodeRequest)


def submit(client: JobSubmissionClient, request: EncodeRequest, root: Path) -> str:
    """Submits a run; returns the job's id.

    Nothing of this machine's environment travels along: the cluster has credentials of its own.

    Raises:
        SubmissionError: the cluster refuses the job. UsageError: the request is too long for a command line.
    """
    text = request.to_json()
    entrypoint = shlex.join(["python", ENTRY_POINT, "--request", text])
    if len(entrypoint.encode()) > _LONGEST_COMMAND:
        raise UsageError(
            f"{len(request.spec.variants)} variants are too many for one job's command line; submit them in "
            "several jobs, each with a spec file and an output of its own"
        )
    return _asked(
        "the cluster refuses the job",
        lambda: str(
            client.submit_job(
                entrypoint=entrypoint,
                runtime_env={"working_dir": str(root), "excludes": _EXCLUDES},
                metadata={OUTPUT: request.output, DIGEST: request.spec.digest},
            )
        ),
    )


_Answer = TypeVar("_Answer")


def _asked(problem: str, question: Callable[[], _Answer]) -> _Answer:
    """Ray's client raises a bare RuntimeError for every answer it does not like."""
    from ray.exceptions import RayError

    try:
        return question()
    except RayError as error:  # AuthenticationError, which older Rays do not have
        raise SubmissionError(ray_token.refusal("the dashboard")) from error
    except BrokenPipeError:  # of standard output, which nobody reads any more
        raise
    except (RuntimeError, OSError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise SubmissionError(f"{problem}: {reason}") from error


def _unknown(job: str) -> str:
    return f"the cluster does not know the job {job} (`ncbatch job list` shows those it knows), or refuses"


def follow(client: JobSubmissionClient, job: str) -> int:
    """Prints a job's log until it ends; its exit code, as a shell tells it where a signal ended the job.

    Raises:
        SubmissionError: the cluster does not know the job, or could not run it.
    """

    async def tail() -> None:
        async for lines in client.tail_job_logs(job):
            print(lines, end="", flush=True)  # noqa: T201 (a log is passed on as it is)

    def followed() -> JobDetails:
        asyncio.run(tail())
        while not client.get_job_status(job).is_terminal():
            time.sleep(0.5)
        return client.get_job_info(job)

    info = _asked(_unknown(job), followed)
    if info.driver_exit_code is not None:
        code = int(info.driver_exit_code)
        return code if code >= 0 else 128 - code
    if info.status == "FAILED":  # a str, too: JobStatus.FAILED
        reason = " ".join(str(info.message or "it does not say why").split())
        raise SubmissionError(f"the cluster could not run the job {job}: {reason}")
    return ExitCode.TERMINATED if info.status == "STOPPED" else ExitCode.OK


def logs(client: JobSubmissionClient, job: str) -> str:
    """What a job has printed so far."""
    return str(_asked(_unknown(job), lambda: client.get_job_logs(job)))


def status(client: JobSubmissionClient, job: str) -> str:
    """The status of a job, in Ray's word for it."""
    return str(_asked(_unknown(job), lambda: client.get_job_status(job)).value)


def stop(client: JobSubmissionClient, job: str) -> bool:
    """Stops a job; False when it was over already."""
    return bool(_asked(_unknown(job), lambda: client.stop_job(job)))


@dataclass(frozen=True)
class Job:
    """A job of ours on the cluster. output: of its run, where the job's metadata says it."""

    id: str
    status: str
    output: str | None
    started_at: datetime | None
    ended_at: datetime | None


def jobs(client: JobSubmissionClient) -> list[Job]:
    """The jobs on the cluster that run ncbatch, newest first."""
    found = [
        Job(
            id=told.submission_id,
            status=told.status.value,
            output=(told.metadata or {}).get(OUTPUT),
            started_at=_time(told.start_time),
            ended_at=_time(told.end_time),
        )
        for told in _asked("the cluster does not list its jobs", client.list_jobs)
        if told.submission_id and (OUTPUT in (told.metadata or {}) or ENTRY_POINT in told.entrypoint)
    ]
    never = datetime.max.replace(tzinfo=timezone.utc)  # one that has not started is the newest
    return sorted(found, key=lambda job: job.started_at or never, reverse=True)


def _time(milliseconds: int | None) -> datetime | None:
    return datetime.fromtimestamp(milliseconds / 1000, timezone.utc) if milliseconds else None
