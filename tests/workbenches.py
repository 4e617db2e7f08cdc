"""A plugin of pytest: workbenches on each kind of store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ncbatch.store import StoreOptions, open_store
from tests.servers import S3Server
from tests.workbench import Workbench

QUICK = StoreOptions(retry_seconds=20.0)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """Other tests share the cores, and results must not hang on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def local(tmp_path: Path) -> Workbench:
    """Two folders."""
    corpus = open_store(str(tmp_path / "corpus"), create=True)
    return Workbench(corpus, open_store(str(tmp_path / "output"), create=True), create_only=True)


@pytest.fixture
def on_s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Workbench:
    """Two prefixes of a bucket, on both servers one after the other."""
    return _on(s3_server, monkeypatch)


_S3 = [pytest.param(name, marks=pytest.mark.s3) for name in ("rclone", "moto")]


@pytest.fixture(params=["local", *_S3])
def bench(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Workbench:
    """On every kind of store."""
    if request.param == "local":
        workbench: Workbench = request.getfixturevalue("local")
        return workbench
    return _on(request.getfixturevalue(f"{request.param}_server"), monkeypatch)


def _on(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Workbench:
    server.use(monkeypatch)
    bucket = server.make_bucket()
    return Workbench(
        open_store(f"s3://{bucket}/in", QUICK),
        open_store(f"s3://{bucket}/out", QUICK),
        create_only=server.conditions_honoured,
    )
