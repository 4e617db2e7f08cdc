"""Two S3 servers over loopback, started once per test session.

`s3_server` runs a test against both; `rclone_server` and `moto_server` are there for tests about one of them.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

_START_SECONDS = 60.0
_REGION = "us-east-1"


@dataclass(frozen=True)
class S3Server:
    """A running server and where the two differ."""

    name: str
    endpoint_url: str
    access_key: str
    secret_key: str = field(repr=False)
    conditions_honoured: bool
    checks_credentials: bool

    def environment(self) -> dict[str, str]:
        """For a subprocess, after `use`: `os.environ | server.environment()`."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": _REGION,
            "AWS_ENDPOINT_URL": self.endpoint_url,
            **_NO_INTERFERENCE,
        }

    def use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Point this process at the server until the test ends."""
        clean_aws_environment(monkeypatch)
        for name, value in self.environment().items():
            monkeypatch.setenv(name, value)

    def make_bucket(self) -> str:
        bucket = f"test-{uuid.uuid4().hex[:12]}"
        self.client().create_bucket(Bucket=bucket)
        return bucket

    def client(self) -> Any:
        """A plain boto3 client, to look at the server without the code under test."""
        return _client(self)


@functools.cache
def _client(server: S3Server) -> Any:
    return boto3.session.Session().client(
        "s3",
        endpoint_url=server.endpoint_url,
        region_name=_REGION,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        config=Config(request_checksum_calculation="when_required"),
    )


# The machine's own AWS settings must not reach the tests, nor the tests the machine's role.
_NO_INTERFERENCE = {
    "NO_PROXY": "127.0.0.1,localhost",
    "no_proxy": "127.0.0.1,localhost",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}
_CLEARED = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_REGION",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS",
    "AWS_CA_BUNDLE",
    "AWS_MAX_ATTEMPTS",
    "AWS_ROLE_ARN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
)


def clean_aws_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No credentials, endpoint or profile of this machine; proxies do not get loopback requests."""
    for name in _CLEARED:
        monkeypatch.delenv(name, raising=False)
    for name, value in _NO_INTERFERENCE.items():
        monkeypatch.setenv(name, value)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def rclone_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """`rclone serve s3` over a temporary folder: checks signatures, ignores conditions."""
    folder = tmp_path_factory.mktemp("rclone")
    (folder / "objects").mkdir()
    key, secret = f"key{uuid.uuid4().hex[:8]}", uuid.uuid4().hex
    port = free_port()
    command = [
        _program("rclone"),
        *("serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", f"{key},{secret}"),
        *("--config", os.devnull, "--cache-dir", str(folder / "cache")),
        str(folder / "objects"),
    ]
    with _running(command, port, folder / "log"):
        yield S3Server("rclone", f"http://127.0.0.1:{port}", key, secret, False, True)


@contextlib.contextmanager
def started_moto(folder: Path) -> Iterator[S3Server]:
    """`moto_server`: keeps objects in memory, honours conditions, looks at credentials only if told to."""
    port = free_port()
    command = [_program("moto_server"), "-H", "127.0.0.1", "-p", str(port)]
    with _running(command, port, folder / "log"):
        yield S3Server("moto", f"http://127.0.0.1:{port}", "moto-key", "moto-secret-value", True, False)


@pytest.fixture(scope="session")
def moto_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One moto for all tests that change nothing about it."""
    with started_moto(tmp_path_factory.mktemp("moto")) as server:
        yield server


@pytest.fixture(params=["rclone", "moto"])
def s3_server(request: pytest.FixtureRequest) -> S3Server:
    """Both servers, one after the other."""
    server: S3Server = request.getfixturevalue(f"{request.param}_server")
    return server


def _program(name: str) -> str:
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if not found:
        pytest.fail(f"{name} is not installed; install the package's [dev] extra")
    return found


@contextlib.contextmanager
def _running(command: list[str], port: int, log: Path) -> Iterator[None]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "RCLONE_"))}
    with log.open("wb") as output:
        # Its own session, so that the whole group can be ended without touching anything else.
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
    try:
        _wait_until_ready(process, port, command[0], log)
        yield
    finally:
        _end_group(process)


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, name: str, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            pytest.fail(f"{name} ended at once: {log.read_text(errors='replace')[-2000:]}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    pytest.fail(f"{name} did not open its port: {log.read_text(errors='replace')[-2000:]}")


def _end_group(process: subprocess.Popen[bytes]) -> None:
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        try:
            process.wait(timeout=5)
            return
        except subprocess.TimeoutExpired:
            continue
