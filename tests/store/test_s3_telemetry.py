"""What is counted of requests to an S3 server."""

from __future__ import annotations

import pytest

from ncbatch.store import StoreOptions, StoreUnavailable, open_store
from ncbatch.telemetry import instruments
from tests.servers import S3Server, free_port
from tests.store.conftest import Faulty
from tests.telemetry.kept import kept

pytestmark = pytest.mark.s3


def test_each_try_is_a_request_with_its_code(faulty: Faulty) -> None:
    store = faulty.open()
    with kept() as told:
        faulty.proxy.fail("PUT", status=503, times=2)
        store.put("k", b"0123456789")
        assert store.get("k") == b"0123456789"
        assert store.head("missing") is None
    requests = instruments.STORE_REQUESTS.name
    assert told.counts[requests, ("PutObject", "503")] == 2
    assert told.counts[requests, ("PutObject", "200")] == 1
    assert told.counts[requests, ("GetObject", "200")] == 1
    assert told.counts[requests, ("HeadObject", "404")] == 1
    assert told.counts[instruments.STORE_RETRIES.name, ()] == 2
    for direction in ("read", "written"):
        assert told.counts[instruments.STORE_BYTES.name, (direction,)] == 10
    assert len(told.observed[instruments.STORE_SECONDS.name, ("PutObject",)]) == 3
    assert all(seconds > 0 for seconds in told.observed[instruments.STORE_SECONDS.name, ("GetObject",)])


def test_a_server_that_does_not_answer(rclone_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    rclone_server.use(monkeypatch)
    nobody = StoreOptions(endpoint_url=f"http://127.0.0.1:{free_port()}", retry_seconds=0)
    with kept() as told, pytest.raises(StoreUnavailable):
        open_store("s3://bucket/", nobody).get("k")
    assert told.counts[instruments.STORE_REQUESTS.name, ("GetObject", "none")] == 1
