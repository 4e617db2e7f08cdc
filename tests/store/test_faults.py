"""A server that throttles, loses answers or refuses: nothing is lost, nothing is counted twice."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from ncbatch.store import (
    AccessDenied,
    StoreError,
    StoreOptions,
    StoreUnavailable,
    honours_create_only,
    open_store,
)
from ncbatch.store.waiting import told_of_waiting
from tests.fault_proxy import FaultProxy
from tests.servers import S3Server
from tests.store.conftest import Faulty

pytestmark = pytest.mark.s3


def test_every_operation_outlives_throttling(faulty: Faulty) -> None:
    faulty.direct.put("k", b"0123456789")
    store = faulty.open()
    expected = {
        "get": (lambda: store.get("k"), b"0123456789"),
        "range": (lambda: store.get_range("k", 2, 3), b"234"),
        "head": (lambda: store.head("k"), faulty.direct.head("k")),
        "list": (lambda: [info.key for info in store.list()], ["k"]),
        "put": (lambda: store.put("k2", b"x"), None),
        "create": (lambda: store.put_if_absent("k3", b"x"), True),
        "delete": (lambda: store.delete("k2"), None),
        "check": (store.check, None),
    }
    for name, (operation, result) in expected.items():
        faulty.proxy.fail(status=503, times=3)
        assert operation() == result, name
    assert [info.key for info in faulty.direct.list()] == ["k", "k3"]


def test_one_loop_tries_again(faulty: Faulty, caplog: pytest.LogCaptureFixture) -> None:
    faulty.proxy.fail("PUT", status=503, times=2)
    told: list[None] = []
    with told_of_waiting(lambda: told.append(None)):
        faulty.open().put("k", b"x")
    assert faulty.proxy.count("PUT") == 3 and len(told) == 2
    assert caplog.text.count("next try") == 2


def test_throttling_for_a_while_delays_and_loses_nothing(faulty: Faulty) -> None:
    store = faulty.open()
    faulty.proxy.fail(status=503, seconds=1.0)
    began = time.monotonic()
    with ThreadPoolExecutor(8) as writers:
        created = list(writers.map(lambda i: store.put_if_absent(f"units/{i}", b"%d" % i), range(8)))
    assert created == [True] * 8
    assert time.monotonic() - began > 0.9
    assert [faulty.direct.get(f"units/{i}") for i in range(8)] == [b"%d" % i for i in range(8)]


def test_throttling_without_end_says_what_was_seen(faulty: Faulty) -> None:
    faulty.proxy.fail(status=503)
    began = time.monotonic()
    with pytest.raises(
        StoreUnavailable, match=r"SlowDown, HTTP status 503.*run the command again"
    ) as failure:
        faulty.open(retry_seconds=1.0).put("k", b"x")
    assert time.monotonic() - began < 6
    assert faulty.proxy.endpoint_url in str(failure.value)
    assert faulty.direct.head("k") is None


def test_a_server_error_that_passes_is_no_refusal_of_the_key(faulty: Faulty) -> None:
    faulty.proxy.fail("PUT", status=500, times=4)
    faulty.open().put("a/b", b"x")
    assert faulty.direct.get("a/b") == b"x"
    assert faulty.proxy.count("PUT", "a/b") == 5


def test_stored_but_never_answered_is_our_own_success(faulty: Faulty) -> None:
    faulty.proxy.drop_answer("PUT", times=1)
    assert faulty.open().put_if_absent("commit", b"mine") is True
    assert faulty.direct.get("commit") == b"mine"
    assert faulty.proxy.count("PUT", "commit") == 2


def test_no_answer_to_any_try_is_settled_by_the_next_call(faulty: Faulty) -> None:
    faulty.proxy.drop_answer("PUT", times=100)
    with pytest.raises(StoreUnavailable):
        faulty.open(retry_seconds=0.5).put("commit", b"mine")
    faulty.proxy.clear()
    assert faulty.open().put_if_absent("commit", b"mine") is True
    assert faulty.open().put_if_absent("commit", b"his!") is False


def test_put_if_absent_looks_before_it_writes(faulty: Faulty) -> None:
    faulty.direct.put("commit", b"his!")
    assert faulty.open().put_if_absent("commit", b"mine") is False
    assert faulty.proxy.count("PUT") == 0


@pytest.mark.parametrize("status", [412, 409])
def test_refused_by_somebody_elses_object(faulty: Faulty, status: int) -> None:
    # The other's commit arrives between our look (which still says 404) and our put.
    faulty.direct.put("commit", b"his!")
    faulty.proxy.fail("HEAD", status=404, times=1)
    faulty.proxy.fail("PUT", status=status, times=1)
    assert faulty.open().put_if_absent("commit", b"mine") is False
    assert faulty.direct.get("commit") == b"his!"


@pytest.mark.parametrize("status", [412, 409])
def test_refused_by_our_own_earlier_try(faulty: Faulty, status: int) -> None:
    faulty.direct.put("commit", b"mine")
    faulty.proxy.fail("HEAD", status=404, times=1)
    faulty.proxy.fail("PUT", status=status, times=1)
    assert faulty.open().put_if_absent("commit", b"mine") is True
    assert faulty.proxy.count("PUT", "commit") == 1


@pytest.mark.parametrize("status", [412, 409])
def test_refused_although_nothing_is_there_is_tried_again(faulty: Faulty, status: int) -> None:
    faulty.proxy.fail("PUT", status=status, times=2)
    assert faulty.open().put_if_absent("commit", b"mine") is True
    assert faulty.direct.get("commit") == b"mine"


def test_refused_for_ever_although_nothing_is_there_ends(faulty: Faulty) -> None:
    faulty.proxy.fail("PUT", status=412)
    with pytest.raises(StoreUnavailable, match="neither stores nor shows"):
        faulty.open(retry_seconds=0.5).put_if_absent("commit", b"mine")


def test_a_server_that_does_not_implement_conditions_works_as_one_that_ignores_them(faulty: Faulty) -> None:
    faulty.proxy.refuse_conditions()
    store = faulty.open()
    assert store.put_if_absent("units/1", b"first") and not store.put_if_absent("units/1", b"second")
    assert store.put_if_absent("units/1", b"first"), "our own bytes"
    assert store.put_if_absent("units/2", b"other")
    assert faulty.direct.get("units/1") == b"first" and faulty.direct.get("units/2") == b"other"
    assert faulty.proxy.count("PUT") == 3, "the condition is tried once"
    assert not honours_create_only(faulty.open())
    assert not list(faulty.direct.list("probe/"))


def test_a_plain_put_reports_a_conflict(faulty: Faulty) -> None:
    faulty.proxy.fail("PUT", status=412, times=1)
    with pytest.raises(StoreError, match="PreconditionFailed, HTTP status 412"):
        faulty.open().put("k", b"x")


def test_denied_is_not_retried(faulty: Faulty) -> None:
    faulty.proxy.fail("GET", status=403)
    with pytest.raises(AccessDenied, match="check the credentials"):
        faulty.open().get("k")
    assert faulty.proxy.count("GET") == 1


def test_half_a_body_is_fetched_again(faulty: Faulty) -> None:
    faulty.direct.put("k", b"0123456789" * 1000)
    faulty.proxy.cut_body(times=2)
    assert faulty.open().get("k") == b"0123456789" * 1000
    faulty.proxy.cut_body(times=1)
    assert faulty.open().get_range("k", 5, 5000) == (b"0123456789" * 501)[5:5005]
    assert faulty.proxy.count("GET", "k") == 5


def test_a_slow_server_is_waited_for(faulty: Faulty) -> None:
    faulty.direct.put("k", b"x")
    faulty.proxy.delay(0.7, "GET")
    began = time.monotonic()
    assert faulty.open().get("k") == b"x"
    assert time.monotonic() - began > 0.7
    assert faulty.proxy.count("GET", "k") == 1


def test_a_server_that_knows_no_ranges(moto_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytes(range(256)) * 10
    moto_server.use(monkeypatch)
    with FaultProxy(moto_server.endpoint_url) as proxy:
        store = open_store(f"s3://{moto_server.make_bucket()}", StoreOptions(endpoint_url=proxy.endpoint_url))
        store.put("k", data)
        proxy.ignore_range()
        for start, length in ((0, 10), (100, 50), (2550, 100), (5000, 10), (7, 0)):
            assert store.get_range("k", start, length) == data[start : start + length]


def test_the_proxy_is_transparent(faulty: Faulty) -> None:
    store = faulty.open()
    for key in ("sp ace+%25.png", "ünï/日本", "a&b=c?d"):
        store.put(key, key.encode())
        assert faulty.direct.get(key) == store.get(key) == key.encode()
    assert list(store.list()) == list(faulty.direct.list())
