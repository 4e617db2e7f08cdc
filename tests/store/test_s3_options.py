"""Options of S3: said once, refused by name, and sent with the requests that they are about."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.awsrequest import AWSPreparedRequest

from ncbatch.cli.common import store_words
from ncbatch.driver.jobs import EncodeRequest
from ncbatch.driver.options import EncodeOptions
from ncbatch.errors import UsageError
from ncbatch.store import StoreError, StoreOptions, open_store
from ncbatch.store.s3 import S3Store
from ncbatch.store.s3_options import KNOWN, parse
from tests.cli.parsed import parsed
from tests.fault_proxy import FaultProxy
from tests.servers import S3Server
from tests.workbench import Workbench

OWNER = "123456789012"  # moto's account
MINE = ("requester-pays=true", f"expected-bucket-owner={OWNER}")
KEY = "arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"


class Sent:
    """What a store sends: method, URL and headers."""

    def __init__(self, store: S3Store) -> None:
        self.requests: list[AWSPreparedRequest] = []
        events: Any = store._connection.client().meta.events
        events.register("before-send.s3", self._note)

    def _note(self, request: AWSPreparedRequest, **_: Any) -> None:
        self.requests.append(request)

    def headers(self, name: str) -> list[str | None]:
        """A header of each request."""
        found = [
            {str(k).lower(): v for k, v in request.headers.items()}.get(name) for request in self.requests
        ]
        return [v.decode() if isinstance(v, bytes) else v for v in found]


@pytest.fixture
def bucket(moto_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    moto_server.use(monkeypatch)
    yield moto_server.make_bucket()


def opened(bucket: str, *words: str, prefix: str = "out") -> tuple[S3Store, Sent]:
    store = open_store(f"s3://{bucket}/{prefix}", StoreOptions(storage_option=words, retry_seconds=20.0))
    assert isinstance(store, S3Store)
    return store, Sent(store)


def every_operation(store: S3Store) -> None:
    store.check()
    store.put("bitstreams/v/a.ncb", b"bytes")
    assert store.put_if_absent("units/00/u.parquet", b"rows")
    assert store.get("bitstreams/v/a.ncb") == b"bytes"
    assert store.get_range("bitstreams/v/a.ncb", 1, 2) == b"yt"
    assert store.head("units/00/u.parquet") is not None
    assert [info.key for info in store.list()] == ["bitstreams/v/a.ncb", "units/00/u.parquet"]
    store.delete("units/00/u.parquet")


@pytest.mark.s3
def test_who_pays_and_who_owns_is_said_with_every_request(bucket: str) -> None:
    store, sent = opened(bucket, *MINE)
    every_operation(store)
    assert {request.method for request in sent.requests} == {"GET", "PUT", "HEAD", "DELETE"}
    assert set(sent.headers("x-amz-request-payer")) == {"requester"}
    assert set(sent.headers("x-amz-expected-bucket-owner")) == {OWNER}


@pytest.mark.s3
def test_what_is_written_is_encrypted(bucket: str, moto_server: S3Server) -> None:
    store, sent = opened(bucket, f"sse-kms-key-id={KEY}")
    every_operation(store)
    puts = [request.method == "PUT" for request in sent.requests]
    assert sent.headers("x-amz-server-side-encryption") == ["aws:kms" if put else None for put in puts]
    assert sent.headers("x-amz-server-side-encryption-aws-kms-key-id") == [
        KEY if put else None for put in puts
    ]
    there = moto_server.client().head_object(Bucket=bucket, Key="out/bitstreams/v/a.ncb")
    assert (there["ServerSideEncryption"], there["SSEKMSKeyId"]) == ("aws:kms", KEY)
    plain, sent = opened(bucket, "sse=AES256", prefix="other")
    plain.put("x", b"")
    assert sent.headers("x-amz-server-side-encryption") == ["AES256"]


@pytest.mark.s3
@pytest.mark.parametrize("prefix", ["", "out", "bitstreams/run"])
def test_a_storage_class_is_of_bitstreams_and_packs_only(bucket: str, prefix: str) -> None:
    store, sent = opened(bucket, "storage-class=STANDARD_IA", prefix=prefix)
    for key in ("bitstreams/v/a.ncb", "packs/v/u.ncbp", "units/00/u.parquet", "status.json", "packs.json"):
        store.put(key, b"")
    assert sent.headers("x-amz-storage-class") == ["STANDARD_IA", "STANDARD_IA", None, None, None]


@pytest.mark.s3
def test_requests_without_credentials_are_not_signed(
    bucket: str, moto_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    moto_server.client().put_object(Bucket=bucket, Key="out/k", Body=b"public", ACL="public-read")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    store, sent = opened(bucket, "unsigned=true")
    assert store.get("k") == b"public"
    assert set(sent.headers("authorization")) == {None}
    with pytest.raises(StoreError, match="no usable S3 credentials"):
        opened(bucket)[0].check()


@pytest.mark.s3
@pytest.mark.parametrize(("style", "start"), [("path", "http://127.0.0.1"), ("virtual", "http://{bucket}.")])
def test_the_bucket_stands_where_it_is_to(
    bucket: str, style: str, start: str, moto_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = moto_server.endpoint_url
    if style == "virtual":
        endpoint = endpoint.replace("127.0.0.1", "localhost")
    store, _ = opened(bucket, f"addressing={style}", f"endpoint={endpoint}")
    url = store._connection.client().generate_presigned_url(
        "get_object", Params={"Bucket": bucket, "Key": "k"}
    )
    assert url.startswith(start.format(bucket=bucket))


@pytest.mark.s3
def test_an_option_may_be_of_one_bucket(bucket: str, moto_server: S3Server) -> None:
    other = moto_server.make_bucket()
    words = ("requester-pays=true", f"{other}:requester-pays=false", f"{other}:sse=AES256")
    for name, payer, sse in ((bucket, "requester", None), (other, None, "AES256")):
        store, sent = opened(name, *words)
        store.put("x", b"")
        assert sent.headers("x-amz-request-payer") == [payer]
        assert sent.headers("x-amz-server-side-encryption") == [sse]


@pytest.mark.s3
def test_endpoint_and_region_of_a_bucket(
    bucket: str, moto_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    with FaultProxy(moto_server.endpoint_url) as proxy:
        store, sent = opened(bucket, f"{bucket}:endpoint={proxy.endpoint_url}", "region=eu-west-3")
        store.put("x", b"")
        assert proxy.count("PUT") == 1
    (signature,) = sent.headers("authorization")
    assert "/eu-west-3/s3/aws4_request" in str(signature)


@pytest.mark.s3
def test_a_wrong_owner_or_bundle_is_told(bucket: str, tmp_path: Path) -> None:
    store, _ = opened(bucket, "expected-bucket-owner=000000000000")
    with pytest.raises(StoreError):
        store.get("x")
    options = StoreOptions(storage_option=(f"ca-bundle={tmp_path}/none.pem",))
    with pytest.raises(UsageError, match=r"ca-bundle=.*/none\.pem: there is no such file on"):
        open_store(f"s3://{bucket}/", options).check()


def test_a_bundle_is_what_certificates_are_checked_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "own.pem"
    bundle.write_text("a certificate")
    monkeypatch.chdir(tmp_path)
    store, _ = opened("some-bucket", "ca-bundle=own.pem", "region=us-east-1", "unsigned=true")
    client = store._connection.client()
    assert client._endpoint.http_session._verify == str(bundle), "absolute, for workers elsewhere"


def test_a_store_with_options_survives_pickling() -> None:
    store = open_store("s3://some-bucket/x", StoreOptions(storage_option=("sse=AES256",)))
    again = pickle.loads(pickle.dumps(store))
    assert again == store and again.options.of_bucket("some-bucket").sse == "AES256"
    assert store != open_store("s3://some-bucket/x")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("sse", "give it as KEY=VALUE, or as BUCKET:KEY=VALUE"),
        ("sse=", "give it as KEY=VALUE"),
        (
            "ssse=AES256",
            r"there is no 'ssse' \(did you mean sse\?\); the choices are endpoint, region, addre",
        ),
        ("sse_kms_key_id=x", r"did you mean sse-kms-key-id\?"),
        ("sse=rot13", "sse=rot13: 'rot13' is not 'AES256', 'aws:kms' or 'aws:kms:dsse'"),
        ("requester-pays=perhaps", "requester-pays=perhaps: 'perhaps' is not true or false"),
        ("b:storage-class=GLACIER", "b:storage-class=GLACIER: GLACIER cannot be read without being restored"),
        ("endpoint=ftp://x", "the endpoint URL must look like"),
        ("endpoint=http://me:pass@x", "carries a user name or password"),
    ],
)
def test_what_is_wrong_with_an_option_is_told(word: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        StoreOptions(storage_option=(word,))
    assert "pass@" not in str(caught.value)


def test_options_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(UsageError, match="sse-kms-key-id is of sse=aws:kms"):
        parse(["sse=AES256", "sse-kms-key-id=k"])
    with pytest.raises(UsageError, match="sse is given twice"):
        parse(["sse=AES256", "sse=aws:kms"])
    found = parse(["sse=AES256", "b:sse=aws:kms", "b:region=r"])
    assert (found[""].sse, found["b"].sse, found["b"].region) == ("AES256", "aws:kms", "r")
    assert parse([])[""].of_put(payload=True) == {} and all(KNOWN.values())


def test_options_go_from_the_command_line_to_workers_jobs_and_printed_commands(
    local: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--storage-option", "requester-pays=true", "--storage-option", "b:sse=AES256")
    options = parsed("submit", "in", "out", *words)["options"]
    assert options.store.storage_option == ("requester-pays=true", "b:sse=AES256")
    assert store_words(options.store) == list(words)
    assert parsed("status", "out", *words)["store"] == options.store
    request = EncodeRequest(local.spec(), "s3://bucket/out/", options)
    assert EncodeRequest.from_json(request.to_json()) == request
    assert isinstance(request.options, EncodeOptions)
    monkeypatch.setenv("NCBATCH_STORAGE_OPTION", "requester-pays=true b:sse=AES256")
    assert parsed("status", "out")["store"] == options.store


def test_the_docs_name_every_option() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "how-to" / "s3.md").read_text()
    assert [key for key in KNOWN if f"`{key}`" not in page] == []
