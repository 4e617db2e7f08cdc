"""What only S3 has: credentials, buckets, pages, and what must never be told."""

from __future__ import annotations

import os
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from ncbatch.errors import UsageError
from ncbatch.store import (
    AccessDenied,
    BucketNotFound,
    ObjectNotFound,
    Store,
    StoreError,
    StoreOptions,
    StoreUnavailable,
    open_store,
)
from ncbatch.store.s3 import S3Store
from tests.servers import S3Server, free_port

pytestmark = pytest.mark.s3

QUICK = StoreOptions(retry_seconds=20.0)


def _every_operation(store: Store) -> list[tuple[str, object]]:
    return [
        ("check", store.check),
        ("get", lambda: store.get("k")),
        ("get_range", lambda: store.get_range("k", 0, 1)),
        ("head", lambda: store.head("k")),
        ("put", lambda: store.put("k", b"x")),
        ("put_if_absent", lambda: store.put_if_absent("k", b"x")),
        ("list", lambda: list(store.list())),
        ("delete", lambda: store.delete("k")),
    ]


def test_a_missing_bucket_is_named(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    s3_server.use(monkeypatch)
    store = open_store("s3://no-such-bucket-here/x", QUICK)
    for name, operation in _every_operation(store):
        if name == "head":  # S3 answers like to a missing object, and head is asked too often to look twice
            assert store.head("k") is None
            continue
        with pytest.raises(BucketNotFound, match="'no-such-bucket-here' does not exist") as refusal:
            operation()  # type: ignore[operator]
        assert s3_server.endpoint_url in str(refusal.value)


@pytest.mark.parametrize(
    ("variable", "words"),
    [("AWS_SECRET_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY"), ("AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY_ID")],
)
def test_wrong_credentials_are_denied_at_once(
    rclone_server: S3Server, monkeypatch: pytest.MonkeyPatch, variable: str, words: str
) -> None:
    rclone_server.use(monkeypatch)
    bucket = rclone_server.make_bucket()
    monkeypatch.setenv(variable, "not-the-right-one")
    store = open_store(f"s3://{bucket}", StoreOptions(retry_seconds=600))
    began = time.monotonic()
    for name, operation in _every_operation(store):
        with pytest.raises(AccessDenied, match=words) as refusal:
            operation()  # type: ignore[operator]
        # "head" and what begins with one get no reason from the server, only the status.
        assert "not-the-right-one" not in str(refusal.value), name
    assert time.monotonic() - began < 15


def test_no_credentials_are_explained_at_once(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    s3_server.use(monkeypatch)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    store = open_store("s3://some-bucket", StoreOptions(retry_seconds=600))
    began = time.monotonic()
    for _, operation in _every_operation(store):
        with pytest.raises(
            AccessDenied, match="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        ):
            operation()  # type: ignore[operator]
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("variable", "value", "kind"),
    [
        ("AWS_PROFILE", "absent-profile", AccessDenied),
        ("AWS_ENDPOINT_URL", "not a url with pa55word", UsageError),
        ("AWS_DEFAULT_REGION", "not/a region", UsageError),
    ],
)
def test_a_broken_environment_is_explained(
    moto_server: S3Server, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, kind: type[Exception]
) -> None:
    moto_server.use(monkeypatch)
    monkeypatch.setenv(variable, value)
    with pytest.raises(kind) as refusal:
        open_store("s3://some-bucket", QUICK).check()
    assert "pa55word" not in str(refusal.value)


def test_an_unreachable_endpoint_ends_in_unavailable_in_time(
    moto_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    moto_server.use(monkeypatch)
    endpoint = f"http://127.0.0.1:{free_port()}"
    store = open_store("s3://some-bucket", StoreOptions(endpoint_url=endpoint, retry_seconds=1))
    began = time.monotonic()
    with pytest.raises(StoreUnavailable, match="connection refused") as failure:
        store.get("k")
    # Botocore has eight attempts left for half a minute; it may finish one wait, no more.
    assert 1 <= time.monotonic() - began < 8
    assert endpoint in str(failure.value)


def test_passwords_in_the_environment_stay_out_of_messages(
    moto_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    moto_server.use(monkeypatch)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://user:pa55word@127.0.0.1:{free_port()}")
    with pytest.raises(StoreUnavailable) as failure:
        open_store("s3://some-bucket", StoreOptions(retry_seconds=0)).check()
    assert "pa55word" not in str(failure.value)
    assert "127.0.0.1" in str(failure.value)


def test_secrets_are_nowhere_in_a_store(rclone_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    rclone_server.use(monkeypatch)
    monkeypatch.setenv("AWS_SESSION_TOKEN", "session-token-value")
    store = open_store(f"s3://{rclone_server.make_bucket()}", QUICK)
    monkeypatch.delenv("AWS_SESSION_TOKEN")
    store.put("k", b"v")  # the client with its credentials exists now
    told = [repr(store), str(store), store.uri, str(pickle.dumps(store)), repr(vars(store)), repr(QUICK)]
    with pytest.raises(ObjectNotFound) as missing:
        store.get("missing")
    told += [str(missing.value), repr(missing.value)]
    for text in told:
        assert rclone_server.secret_key not in text
        assert rclone_server.access_key not in text


def test_more_objects_than_a_page(moto_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    moto_server.use(monkeypatch)
    bucket = moto_server.make_bucket()
    names = [f"d{i % 7}/{i:04d}.png" for i in range(1030)]
    store = open_store(f"s3://{bucket}/corpus", QUICK)
    with ThreadPoolExecutor(8) as writers:
        list(writers.map(lambda name: store.put(name, b""), names))
    assert [info.key for info in store.list()] == sorted(names)
    assert [info.key for info in store.list("d3/")] == sorted(
        name for name in names if name.startswith("d3/")
    )


def test_the_marker_of_the_root_folder_is_no_object(
    moto_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    moto_server.use(monkeypatch)
    bucket = moto_server.make_bucket()
    for key in ("in/", "in/x", "inner"):
        moto_server.client().put_object(Bucket=bucket, Key=key, Body=b"")
    assert [info.key for info in open_store(f"s3://{bucket}/in", QUICK).list()] == ["x"]


def test_a_key_the_server_refuses_is_named(moto_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    moto_server.use(monkeypatch)
    store = open_store(f"s3://{moto_server.make_bucket()}", QUICK)
    # moto cannot route a line break and answers a put with 404: no reason to report a missing object.
    with pytest.raises(StoreError, match="refused the key") as refusal:
        store.put("line\nbreak", b"x")
    assert not isinstance(refusal.value, ObjectNotFound)


def test_a_process_makes_its_own_client(moto_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    moto_server.use(monkeypatch)
    store = open_store(f"s3://{moto_server.make_bucket()}", QUICK)
    assert isinstance(store, S3Store)
    store.put("parent", b"")
    before = store._connection.client()
    child = os.fork()
    if child == 0:  # pragma: no cover - measured by its exit status
        try:
            store.put("child", b"")
            os._exit(0 if store._connection.client() is not before else 3)
        finally:
            os._exit(4)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert [info.key for info in store.list()] == ["child", "parent"]
    assert store._connection.client() is before


def test_threads_share_one_client(moto_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    moto_server.use(monkeypatch)
    store = open_store(f"s3://{moto_server.make_bucket()}", QUICK)
    assert isinstance(store, S3Store)
    together = threading.Barrier(8)

    def client(_: int) -> object:
        together.wait()
        return store._connection.client()

    with ThreadPoolExecutor(8) as threads:
        assert len({id(made) for made in threads.map(client, range(8))}) == 1


def test_botocore_tries_once_whatever_the_environment_says(
    moto_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    moto_server.use(monkeypatch)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "5")
    store = open_store("s3://some-bucket")
    assert isinstance(store, S3Store)
    config = store._connection.client().meta.config
    assert config.retries == {"mode": "standard", "total_max_attempts": 1}
    assert config.request_checksum_calculation == config.response_checksum_validation == "when_required"
