"""Clusters that ask for a token, and those that do not."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc

from ncbatch.driver import ray_token
from tests.end_to_end.command_line import environment, ncbatch
from tests.servers import free_port

TOKEN = "0123456789abcdef"


class _Gcs(gcs_service_pb2_grpc.NodeInfoGcsServiceServicer):
    """A cluster's door. token: asked for; None: open to everybody."""

    def __init__(self, token: str | None) -> None:
        self._token = token

    def GetClusterId(self, request: Any, context: Any) -> Any:  # noqa: N802 (its name in Ray)
        shown = dict(context.invocation_metadata()).get("authorization")
        if self._token is not None and shown != f"Bearer {self._token}":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken")
        return gcs_service_pb2.GetClusterIdReply()  # type: ignore[attr-defined]


@pytest.fixture(params=[None, TOKEN], ids=["open", "closed"])
def gcs(request: pytest.FixtureRequest) -> Iterator[tuple[str, str | None]]:
    """A door's address, and the token it asks for."""
    server = grpc.server(ThreadPoolExecutor(1))
    gcs_service_pb2_grpc.add_NodeInfoGcsServiceServicer_to_server(_Gcs(request.param), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}", request.param
    server.stop(None)


def test_whether_a_cluster_lets_us_in(gcs: tuple[str, str | None]) -> None:
    address, token = gcs
    closed = token is not None
    assert ray_token._refuses(address, {}) == closed
    assert ray_token._refuses(address, {"authorization": "Bearer wrong"}) == closed
    assert not ray_token._refuses(address, {"authorization": f"Bearer {TOKEN}"})
    assert not ray_token._refuses(f"127.0.0.1:{free_port()}", {}), "nobody there: Ray says so"


def test_a_token_that_is_missing_or_wrong_is_told_at_once(
    gcs: tuple[str, str | None], tmp_path: Path
) -> None:
    address, token = gcs
    if token is None:
        pytest.skip("only where one is asked for")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"")
    env = environment(HOME=str(tmp_path))
    del env["RAY_AUTH_MODE"]
    words = ("encode", tmp_path / "in", tmp_path / "out", "--method", "jpeg", "--quality", "50")
    told = ncbatch(*words, "--ray-address", address, env=env).expect(1).err.splitlines()
    assert f"the Ray cluster at {address} asks for a token; set RAY_AUTH_MODE=token" in told[-1]
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("wrong")
    told = ncbatch(*words, "--ray-address", address, env=env).expect(1).err.splitlines()
    assert f"the Ray cluster at {address} does not accept our token" in told[-1]
    assert not any("gcs_client" in line for line in told)
