"""Runs as Ray jobs: submitted by us or by Ray's own command, followed, read and stopped."""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ncbatch.driver.jobs import _EXCLUDES, check_dashboard, find_dashboard
from ncbatch.errors import UsageError
from tests.end_to_end.command_line import ROOT, environment, ncbatch, wait_for
from tests.end_to_end.conftest import Head
from tests.end_to_end.images import save_image, save_images
from tests.end_to_end.runs import output_store, rows
from tests.servers import free_port


@pytest.mark.ray
def test_a_submitted_run_is_followed_to_its_exit_code(head: Head, tmp_path: Path) -> None:
    save_images(tmp_path / "in", 2)
    (tmp_path / "in" / "text.png").write_text("not an image")
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
    assert "packag" not in done.err and "ncbatch job follow" not in done.err, done.err
    assert f"submitted to the cluster at {head.dashboard}" in done.err

    # The flag wins over what the environment says.
    elsewhere = environment(RAY_API_SERVER_ADDRESS="http://127.0.0.1:1", RAY_ADDRESS="http://127.0.0.1:2")
    listed = ncbatch("job", "list", "--json", "--dashboard", head.dashboard, env=elsewhere).expect(0)
    (found,) = [entry for entry in json.loads(listed.out) if entry["id"] == job]
    assert found["output"] == f"file://{tmp_path}/out/" and found["status"] == "FAILED"
    table = ncbatch("job", "list", env=environment(RAY_API_SERVER_ADDRESS=head.dashboard)).expect(0)
    assert job in table.out
    assert table.message == f"using the cluster at {head.dashboard}, as RAY_API_SERVER_ADDRESS says"

    unknown = ncbatch("job", "status", "raysubmit_none", "--dashboard", head.dashboard).expect(1)
    assert "does not know the job raysubmit_none" in unknown.message


@pytest.mark.ray
@pytest.mark.slow
def test_a_job_is_stopped_and_ray_job_submit_goes_on(head: Head, tmp_path: Path) -> None:
    save_images(tmp_path / "in", 1)
    save_image(tmp_path / "in" / "hang.png", 5, fault="hang")
    out = output_store(tmp_path / "out")
    # Two workers: whichever image comes first, the other one is committed.
    encoding = (str(tmp_path / "in"), str(tmp_path / "out"), "--method", "amortized", "--workers", "2")
    submitted = ncbatch("submit", *encoding, "--dashboard", head.dashboard).expect(0)
    job = submitted.out.strip()
    assert f"`ncbatch job follow {job} --dashboard {head.dashboard}`" in submitted.err
    wait_for(lambda: rows(out), "the job has committed a unit")
    assert "stopping" in ncbatch("job", "stop", job, "--dashboard", head.dashboard).expect(0).out
    wait_for(lambda: _job(head, job)["status"] == "STOPPED", "the job is over")
    assert out.head("lease.json") is None, "a stopped job releases its lease"
    assert "it had ended already" in ncbatch("job", "stop", job, "--dashboard", head.dashboard).expect(0).out

    ray = str(Path(sys.executable).with_name("ray"))
    command = (ray, "job", "submit", "--address", head.dashboard, "--working-dir", ".", "--")
    (tmp_path / "in" / "hang.png").unlink()  # planned all the same, so there will be a row that says so
    entry = ("python", "jobs/encode.py", *encoding)
    done = subprocess.run([*command, *entry], cwd=ROOT, env=environment(), capture_output=True, timeout=900)
    assert b"1 image ok, 1 failed" in done.stdout, done.stdout.decode() + done.stderr.decode()
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
        with pytest.raises(UsageError, match="is not the URL of a dashboard"):
            check_dashboard(url)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    check_dashboard("http://10.0.0.7:8265")


def test_a_dashboard_that_does_not_answer_is_named(tmp_path: Path) -> None:
    save_images(tmp_path / "in", 1)
    places = (str(tmp_path / "in"), str(tmp_path / "out"))
    port = free_port()
    nothing = ncbatch("submit", *places, "--dashboard", f"http://127.0.0.1:{port}").expect(1)
    assert f"no Ray dashboard answers at http://127.0.0.1:{port}" in nothing.err
    assert "ray start --head" in nothing.err.splitlines()[-1]


class _Refusing(http.server.BaseHTTPRequestHandler):
    """A dashboard that wants a token."""

    def do_GET(self) -> None:
        self.send_response(401 if "authorization" not in self.headers else 403)
        self.end_headers()
        self.wfile.write(b"Unauthorized")

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def refusing() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_cluster_that_asks_for_a_token_is_told_in_one_line(refusing: str, tmp_path: Path) -> None:
    env = environment(HOME=str(tmp_path))
    del env["RAY_AUTH_MODE"]
    none = ncbatch("job", "list", "--dashboard", refusing, env=env).expect(1)
    assert f"{refusing} asks for a token; set RAY_AUTH_MODE=token" in none.message
    assert "RAY_AUTH_TOKEN" in none.message and "~/.ray/auth_token" in none.message

    # The token of this machine is sent by itself, and can be the wrong one.
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("0" * 32)
    wrong = ncbatch("job", "list", "--dashboard", refusing, env=env).expect(1)
    assert f"{refusing} does not accept our token" in wrong.message


def test_the_flag_says_where_jobs_go_and_what_is_used_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    assert find_dashboard(None).url == "http://127.0.0.1:8265"
    assert find_dashboard(None).flag == ""
    monkeypatch.setenv("RAY_ADDRESS", "http://10.0.0.7:8265")
    with pytest.raises(UsageError, match=r"RAY_ADDRESS http://10\.0\.0\.7:8265 is plain http"):
        find_dashboard(None)
    assert find_dashboard("http://127.0.0.1:1234/").url == "http://127.0.0.1:1234"
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "https://ray.example")
    assert find_dashboard(None).flag == " --dashboard https://ray.example"
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "10.0.0.7:6379")
    with pytest.raises(UsageError, match=r"RAY_API_SERVER_ADDRESS 10\.0\.0\.7:6379 is not the URL"):
        find_dashboard(None)


def test_only_the_program_is_uploaded(tmp_path: Path) -> None:
    from ray._private.runtime_env.packaging import create_package

    checkout = tmp_path / "checkout"
    program = ("jobs/encode.py", "ncbatch/cli.py", "ncbatch/models/base.safetensors", "pyproject.toml")
    private = (
        "out/run.json",
        "photos/a.png",
        ".env",
        "ncbatch/.env.local",
        "jobs/key.pem",
        "jobs/server.key",
        "jobs/id_ecdsa",
        "jobs/.netrc",
        "ncbatch/.aws/config",
        "ncbatch/credentials.json",
        "id_rsa",
        ".git/config",
    )
    for name in (*program, *private, "ncbatch/__pycache__/cli.pyc", "nested/ncbatch/cli.py"):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text("content")
    package = tmp_path / "package.zip"
    create_package(str(checkout), package, include_gitignore=True, excludes=list(_EXCLUDES))
    with zipfile.ZipFile(package) as archive:
        assert sorted(name for name in archive.namelist() if not name.endswith("/")) == sorted(program)
