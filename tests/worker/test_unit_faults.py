"""A store that fails in the middle of a unit: it is done again, nothing is lost or counted twice."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest

from ncbatch import layout
from ncbatch.plan.spec import RunSpec
from ncbatch.plan.units import Unit
from ncbatch.store import (
    AccessDenied,
    DestinationRefused,
    StoreError,
    StoreFull,
    StoreOptions,
    StoreUnavailable,
    open_store,
    s3_connection,
)
from ncbatch.worker.unit import run_unit
from ncbatch.worker.worker import StoreFailure, Worker
from tests.fault_proxy import FaultProxy
from tests.servers import S3Server
from tests.workbench import ATTEMPTS, Workbench, assert_one_row_each, make_image

pytestmark = pytest.mark.s3


@dataclass(frozen=True)
class Faulty:
    """A planned unit of two images, with the way to its output and corpus through a proxy."""

    proxy: FaultProxy
    direct: Workbench
    proxied: Workbench
    spec: RunSpec
    unit: Unit

    def run(self, attempt: str = ATTEMPTS[0]) -> None:
        run_unit(self.proxied.workspace(self.spec), self.unit, attempt, {})

    @property
    def commit(self) -> str:
        return layout.unit_key(self.unit.id)

    def check(self) -> None:
        """The unit is committed and everything it says is true."""
        rows = self.direct.commit(self.unit)
        assert_one_row_each(rows, self.unit)
        for row in rows:
            self.direct.bitstream(row)


@pytest.fixture
def faulty(on_s3: Workbench, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Faulty]:
    monkeypatch.setattr(s3_connection, "_FIRST_WAIT", 0.05)
    on_s3.add({"a.png": make_image(seed=1), "b.png": make_image(seed=2)})
    spec = on_s3.spec()
    with FaultProxy(s3_server.endpoint_url) as proxy:
        options = StoreOptions(endpoint_url=proxy.endpoint_url, retry_seconds=1.5)
        proxied = replace(
            on_s3,
            corpus=open_store(on_s3.corpus.uri, options),
            output=open_store(on_s3.output.uri, options),
        )
        yield Faulty(proxy, on_s3, proxied, spec, on_s3.unit(spec))


def test_throttled_for_a_while(faulty: Faulty) -> None:
    for method in ("HEAD", "GET", "PUT"):
        faulty.proxy.fail(method, status=503, times=2)
    faulty.run()
    assert faulty.proxy.count("PUT") == 2 + 3, "two bitstreams and the commit"
    faulty.check()


@pytest.mark.parametrize(("method", "key"), [("GET", "a.png"), ("PUT", ".ncb"), ("PUT", ".parquet")])
def test_a_store_that_stays_away_ends_the_attempt_and_the_next_completes(
    faulty: Faulty, method: str, key: str
) -> None:
    faulty.proxy.fail(method, status=503, key=key)
    with pytest.raises(StoreUnavailable, match="HTTP status 503"):
        faulty.run()
    assert faulty.direct.keys("units/") == []
    faulty.proxy.clear()
    faulty.run(ATTEMPTS[1])
    faulty.check()
    adopted = [row.adopted for row in faulty.direct.commit(faulty.unit)]
    assert adopted == [key == ".parquet"] * 2, "what was published before is not encoded again"


@pytest.mark.parametrize("key", [".ncb", ".parquet"])
def test_stored_but_never_answered(faulty: Faulty, key: str) -> None:
    faulty.proxy.drop_answer("PUT", key=key, times=1)
    faulty.run()
    faulty.check()
    assert len(faulty.direct.keys(layout.BITSTREAMS_PREFIX)) == 2


def test_a_commit_that_nobody_heard_of_stands(faulty: Faulty) -> None:
    faulty.proxy.drop_answer("PUT", key=".parquet", times=100)
    with pytest.raises(StoreUnavailable):
        faulty.run()
    faulty.proxy.clear()
    before = faulty.direct.output.get(faulty.commit)
    faulty.run(ATTEMPTS[1])
    assert faulty.direct.output.get(faulty.commit) == before
    assert {row.attempt for row in faulty.direct.commit(faulty.unit)} == {ATTEMPTS[0]}
    faulty.check()


@pytest.mark.parametrize("key", [".ncb", ".parquet"])
def test_refused_although_nobody_was_first(faulty: Faulty, key: str) -> None:
    faulty.proxy.fail("PUT", status=412, key=key, times=1)
    faulty.run()
    faulty.check()


def test_refused_because_somebody_was_first(faulty: Faulty) -> None:
    """The other's commit arrives between the look and the put."""
    run_unit(faulty.direct.workspace(faulty.spec), faulty.unit, ATTEMPTS[5], {})
    before = faulty.direct.output.get(faulty.commit)
    faulty.proxy.fail("HEAD", status=404, key=".parquet", times=2)
    faulty.proxy.fail("PUT", status=412, key=".parquet", times=1)
    faulty.run()
    assert faulty.direct.output.get(faulty.commit) == before
    faulty.check()


def test_access_denied_to_everything_is_nobodys_row(faulty: Faulty) -> None:
    faulty.proxy.fail(status=403)
    with pytest.raises(AccessDenied):
        faulty.run()
    faulty.proxy.clear()
    faulty.proxy.fail("GET", status=403, key="a.png")
    faulty.proxy.fail("GET", status=403, key=f"/{faulty.direct.corpus.uri.split('/')[2]}")  # the listing
    with pytest.raises(AccessDenied):
        faulty.run()
    assert faulty.direct.keys("units/") == []


def test_access_denied_to_one_image_fails_it_alone(faulty: Faulty) -> None:
    faulty.proxy.fail("GET", status=403, key="/a.png")
    faulty.run()
    rows = faulty.direct.rows()
    assert (rows["a.png"].error_class, rows["b.png"].status) == ("access_denied", "ok")
    assert rows["a.png"].error is not None and "check the credentials" in rows["a.png"].error


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (AccessDenied("no"), StoreFailure("no")),
        (StoreFull("no"), StoreFailure("no", full=True)),
        (DestinationRefused("no"), StoreFailure("no", final=True)),
    ],
)
def test_a_worker_tells_what_kind_of_refusal_it_met(error: StoreError, told: StoreFailure) -> None:
    def fail() -> None:
        raise error

    worker = object.__new__(Worker)  # its constructor sets up a process
    worker._workspace = SimpleNamespace(leaving=threading.Event())  # type: ignore[assignment]
    assert worker._reported(fail) == told
