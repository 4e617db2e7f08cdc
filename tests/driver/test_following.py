"""Jobs that are followed: their exit codes are passed on, and what no exit code tells is said."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from ray.job_submission import JobStatus, JobSubmissionClient

from ncbatch.driver.jobs import SubmissionError, follow
from ncbatch.exit_codes import ExitCode


class Ended:
    """A cluster that knows one job, which is over."""

    def __init__(self, status: JobStatus, code: int | None, message: str | None = None) -> None:
        self._info = SimpleNamespace(status=status, driver_exit_code=code, message=message)

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        yield "a line\n"

    def get_job_status(self, job: str) -> JobStatus:
        return cast("JobStatus", self._info.status)

    def get_job_info(self, job: str) -> Any:
        return self._info


def _followed(*ended: Any) -> int:
    return follow(cast("JobSubmissionClient", Ended(*ended)), "job")


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (JobStatus.SUCCEEDED, 0, ExitCode.OK),
        (JobStatus.SUCCEEDED, None, ExitCode.OK),
        (JobStatus.FAILED, 2, ExitCode.FAILED),
        (JobStatus.FAILED, -9, 137),
        (JobStatus.FAILED, -15, ExitCode.TERMINATED),
        (JobStatus.STOPPED, None, ExitCode.TERMINATED),
    ],
)
def test_the_exit_code_is_the_jobs(
    capsys: pytest.CaptureFixture[str], status: JobStatus, code: int | None, expected: int
) -> None:
    assert _followed(status, code) == expected
    assert capsys.readouterr().out == "a line\n"


def test_a_job_that_could_not_be_run_says_why() -> None:
    with pytest.raises(SubmissionError, match="could not run the job job: no such environment"):
        _followed(JobStatus.FAILED, None, "no such\nenvironment")


def test_a_reader_that_has_gone_is_not_the_clusters_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody_reads(text: str) -> int:
        raise BrokenPipeError

    monkeypatch.setattr(sys.stdout, "write", nobody_reads)
    with pytest.raises(BrokenPipeError):
        _followed(JobStatus.SUCCEEDED, 0)
