"""One store of each kind, so that the contract is tested on all of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ncbatch.store import Store, StoreOptions, open_store, s3_connection
from tests.fault_proxy import FaultProxy
from tests.servers import S3Server

# Long enough for a loaded machine to answer, short enough that a test of giving up ends soon.
QUICK = StoreOptions(retry_seconds=20.0)


@pytest.fixture(params=["local", "rclone", "moto"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An empty store of each kind; on the servers below a prefix of a fresh bucket."""
    if request.param == "local":
        return open_store(str(tmp_path / "root"), create=True)
    server: S3Server = request.getfixturevalue(f"{request.param}_server")
    server.use(monkeypatch)
    return open_store(f"s3://{server.make_bucket()}/some/prefix", QUICK)


@dataclass(frozen=True)
class Faulty:
    """A store that is reached through the proxy, and the same one reached directly."""

    server: S3Server
    proxy: FaultProxy
    bucket: str
    direct: Store

    def open(self, retry_seconds: float = 20.0) -> Store:
        options = StoreOptions(endpoint_url=self.proxy.endpoint_url, retry_seconds=retry_seconds)
        return open_store(f"s3://{self.bucket}/", options)


@pytest.fixture
def faulty(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Faulty]:
    """A bucket behind a fault proxy; waits are short."""
    s3_server.use(monkeypatch)
    monkeypatch.setattr(s3_connection, "_FIRST_WAIT", 0.05)
    bucket = s3_server.make_bucket()
    with FaultProxy(s3_server.endpoint_url) as proxy:
        yield Faulty(s3_server, proxy, bucket, open_store(f"s3://{bucket}/", QUICK))
