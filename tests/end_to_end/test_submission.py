"""Runs as Ray jobs: submitted by us or by Ray's own command, followed, read and stopped."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from ncbatch.errors import UsageError
from ncbatch.runs.submission import check_dashboard
from tests.end_to_end.command_line import ROOT, environment, ncbatch, wait_for
from tests.end_to_end.conftest import Head
from tests.end_to_end.pictures import save_picture, save_pictures
from tests.end_to_end.runs import output_store, rows
from tests.servers import free_port


@pytest.mark.ray
def test_a_submitted_run_is_followed_to_its_exit_code(head: Head, tmp_path: Path) -> None:
    save_pictures(tmp_path / "in", 2)
    (tmp_path / "in" / "text.png").write_text("not a picture")
    env = environment(AWS_SECRET_ACCESS_KEY="never-to-travel", RAY_ADDRESS="")
    # Relative paths are of this folder, not of the one the job runs in.
    words = ("submit", "in", "out", "--method", "amortized", "--workers", "1", "--wait")
    done = ncbatch(*words, "--dashboard", head.dashboard, env=env, cwd=tmp_path)
    assert done.code == 2, str(done)
    job = done.out.splitlines()[0]
    assert "failed: text.png" in done.out and "2 images ok, 1 failed" in done.out
    assert len(rows(output_store(tmp_path / "out"))) == 3

    assert ncbatch("job", "status", job, "--dashboard", head.dashboard).expect(0).out.strip() == "FAILED"
    assert "2 images ok, 1 failed" in ncbatch("job", "logs", job, "--dashboard", head.dashboard).expect(0).out
    told = _job(head, job)
    digest = json.loads(output_store(tmp_path / "out").get("run.json"))["digest"]
    assert told["metadata"]["ncbatch_output"] == f"file://{tmp_path}/out/"
    assert told["metadata"]["ncbatch_digest"] == digest
    assert "never-to-travel" not in json.dumps(told)
    assert "env_vars" not in told["runtime_env"]
    unknown = ncbatch("job", "status", "raysubmit_none", "--dashboard", head.dashboard).expect(1)
    assert "does not know the job raysubmit_none" in unknown.message


@pytest.mark.ray
@pytest.mark.slow
def test_a_job_is_stopped_and_ray_job_submit_goes_on(head: Head, tmp_path: Path) -> None:
    save_pictures(tmp_path / "in", 1)
    save_picture(tmp_path / "in" / "hang.png", 5, fault="hang")
    out = output_store(tmp_path / "out")
    # Two workers: whichever picture comes first, the other one is committed.
    encoding = (str(tmp_path / "in"), str(tmp_path / "out"), "--method", "amortized", "--workers", "2")
    submitted = ncbatch("submit", *encoding, "--dashboard", head.dashboard).expect(0)
    job = submitted.out.strip()
    assert f"ncbatch job follow {job}" in submitted.err
    wait_for(lambda: rows(out), "the job has committed a unit")
    assert "stopping" in ncbatch("job", "stop", job, "--dashboard", head.dashboard).expect(0).out
    wait_for(lambda: _job(head, job)["status"] == "STOPPED", "the job is over")
    assert out.head("lease.json") is None, "a stopped job releases its lease"
    assert "it was over already" in ncbatch("job", "stop", job, "--dashboard", head.dashboard).expect(0).out

    ray = str(Path(sys.executable).with_name("ray"))
    command = (ray, "job", "submit", "--address", head.dashboard, "--working-dir", ".", "--")
    (tmp_path / "in" / "hang.png").unlink()  # planned all the same, so there will be a row that says so
    entry = ("python", "jobs/encode.py", *encoding)
    done = subprocess.run([*command, *entry], cwd=ROOT, env=environment(), capture_output=True, timeout=150)
    assert b"1 images ok, 1 failed" in done.stdout, done.stdout.decode() + done.stderr.decode()
    assert {row["error_class"] for row in rows(out).values()} == {None, "missing"}


def _job(head: Head, job: str) -> dict[str, Any]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{head.dashboard}/api/jobs/{job}", timeout=10) as answer:
        told: dict[str, Any] = json.load(answer)
        return told


def test_nothing_is_submitted_readable_over_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    for url in (
        "http://127.0.0.1:8265",
        "http://localhost:8265",
        "http://[::1]:8265",
        "https://ray.example:443",
    ):
        check_dashboard(url)
    for url in ("http://10.0.0.7:8265", "http://ray.example:8265", "http://0.0.0.0:8265"):
        with pytest.raises(UsageError, match="plain http to another machine"):
            check_dashboard(url)
    for url in ("ray://10.0.0.7:10001", "127.0.0.1:8265", "http://"):
        with pytest.raises(UsageError, match="is not a URL"):
            check_dashboard(url)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    check_dashboard("http://10.0.0.7:8265")


def test_a_dashboard_that_does_not_answer_is_named(tmp_path: Path) -> None:
    save_pictures(tmp_path / "in", 1)
    places = (str(tmp_path / "in"), str(tmp_path / "out"))
    port = free_port()
    nothing = ncbatch("submit", *places, "--dashboard", f"http://127.0.0.1:{port}").expect(1)
    assert f"no Ray dashboard answers at http://127.0.0.1:{port}" in nothing.err
    assert "ray start --head" in nothing.err.splitlines()[-1]
