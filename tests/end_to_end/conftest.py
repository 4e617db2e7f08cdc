"""A Ray cluster for the tests that need one which outlives a command."""

from __future__ import annotations

import shutil
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ncbatch.cli.main import main
from tests.end_to_end.command_line import Done, Running, Said, environment, wait_for
from tests.servers import S3Server, free_port


@dataclass(frozen=True)
class Head:
    """A running head node.

    flags: folder of the saboteur's switches. logs: folder of the workers' logs. exporter: of its metrics.
    """

    address: str
    dashboard: str
    flags: Path
    logs: Path
    exporter: str

    def metrics(self) -> str:
        """What Prometheus would be told now."""
        return str(_opener().open(self.exporter, timeout=30).read(), "utf-8")


@pytest.fixture(scope="session")
def head(rclone_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """`ray start --head`, one for the session (of each of pytest-xdist's workers): it takes ten seconds.

    Its workers have the credentials of rclone, which moto does not look at.
    """
    flags = tmp_path_factory.mktemp("flags")
    folder = tempfile.mkdtemp(prefix="ray")  # a socket's path has no room for pytest's long names
    port, dashboard, metrics = free_port(), free_port(), free_port()
    env = environment(NCBATCH_TEST_FLAGS=str(flags)) | rclone_server.environment()
    env.pop("AWS_ENDPOINT_URL")
    command = (
        *(str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--disable-usage-stats"),
        *("--node-ip-address=127.0.0.1", f"--port={port}", f"--temp-dir={folder}", "--num-cpus=4"),
        *("--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"),
        # Free ports: another Ray may run on this machine.
        *(f"--dashboard-agent-listen-port={free_port()}", f"--ray-client-server-port={free_port()}"),
        f"--metrics-export-port={metrics}",
    )
    ray = Running(command, env, None)
    try:
        url = f"http://127.0.0.1:{dashboard}"
        wait_for(lambda: _answers(ray, f"{url}/api/version"), "the dashboard is up")
        logs = Path(folder) / "session_latest" / "logs"
        yield Head(f"127.0.0.1:{port}", url, flags, logs, f"http://127.0.0.1:{metrics}/metrics")
    finally:
        ray.kill()
        shutil.rmtree(folder, ignore_errors=True)


def _answers(ray: Running, url: str) -> bool:
    assert ray.process.poll() is None, str(ray.done)
    try:
        return bool(_opener().open(url, timeout=2).status == 200)
    except OSError:
        return False


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback is not for a proxy


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Said:
    """Runs a command in this process: starting one takes seconds, and there are many."""
    monkeypatch.setenv("COLUMNS", "120")

    def run(*words: str | Path) -> Done:
        try:
            code = main([str(word) for word in words])
        except SystemExit as end:
            code = int(end.code or 0)
        told = capsys.readouterr()
        return Done(code, told.out, told.err)

    return run
