"""URIs, and the options that must never hold a secret."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from ncbatch.errors import UsageError
from ncbatch.store import LocalStore, StoreError, StoreOptions, join_uri, open_store
from ncbatch.store.s3 import S3Store


@pytest.mark.parametrize(
    ("uri", "canonical"),
    [
        ("s3://bucket", "s3://bucket/"),
        ("s3://bucket/", "s3://bucket/"),
        ("S3://bucket/a/b//", "s3://bucket/a/b/"),
        ("s3://bucket/sp ace+%25", "s3://bucket/sp ace+%25/"),
    ],
)
def test_s3_uris(uri: str, canonical: str) -> None:
    store = open_store(uri)
    assert isinstance(store, S3Store)
    assert store.uri == canonical
    assert open_store(store.uri) == store


def test_paths_and_file_uris(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = tmp_path / "sp ace+%25 ü"
    odd.mkdir()
    by_path = open_store(str(odd))
    assert isinstance(by_path, LocalStore)
    assert by_path.root == odd
    assert by_path.uri == f"file://{tmp_path}/sp%20ace%2B%2525%20%C3%BC/"
    assert open_store(by_path.uri) == by_path == open_store(f"file://localhost{by_path.uri[7:]}")
    monkeypatch.chdir(tmp_path)
    assert open_store("./sp ace+%25 ü/../sp ace+%25 ü/") == by_path
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_store("~/sp ace+%25 ü") == by_path
    assert open_store("/").uri == "file:///"


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("gs://bucket/x", r"gs:// is not .* s3://.*, file:///"),
        ("https://host/bucket", "https:// is not"),
        ("s3:bucket/x", "two slashes"),
        ("s3:/bucket/x", "two slashes"),
        ("file://server/share", "three slashes"),
        ("s3://", "cannot be the name of a bucket"),
        ("s3:///prefix", "cannot be the name of a bucket"),
        ("s3://bad bucket/x", "cannot be the name of a bucket"),
        ("", "empty"),
        ("nul\0", "NUL"),
        ("~nobody-of-that-name/x", "home folder"),
    ],
)
def test_what_is_not_a_store_is_explained(uri: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        open_store(uri)


@pytest.mark.parametrize("uri", ["s3://KEYID:verysecret@bucket/x", "s3://KEYID:very/secret@bucket/x"])
def test_credentials_in_a_uri_are_refused_and_not_repeated(uri: str) -> None:
    with pytest.raises(UsageError, match="no credentials") as refusal:
        open_store(uri)
    assert "very" not in str(refusal.value)
    assert "KEYID" not in str(refusal.value)


@pytest.mark.parametrize(
    "url",
    ["http://user:verysecret@host:9000", "verysecret", "ftp://verysecret", "http://[verysecret", "http://"],
)
def test_an_endpoint_url_must_be_one_and_hold_no_password(url: str) -> None:
    with pytest.raises(UsageError, match="endpoint URL") as refusal:
        StoreOptions(endpoint_url=url)
    assert "verysecret" not in str(refusal.value)


def test_missing_folder_needs_create(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        open_store(f"file://{tmp_path}/absent")
    assert open_store(f"file://{tmp_path}/absent", create=True).uri == f"file://{tmp_path}/absent/"


def test_options_are_picklable_values() -> None:
    options = StoreOptions("http://127.0.0.1:9000", "eu-west-1", 3.0)
    assert pickle.loads(pickle.dumps(options)) == options
    assert StoreOptions().retry_seconds == 120.0


@pytest.mark.parametrize(
    ("base", "parts", "joined"),
    [
        ("s3://bucket/", ("a b", "c/d"), "s3://bucket/a b/c/d"),
        ("s3://bucket/x", ("y",), "s3://bucket/x/y"),
        ("/data", ("", "x%"), "/data/x%"),
        ("/", ("x",), "/x"),
        ("file:///data/", ("x%", "ü"), "file:///data/x%25/%C3%BC"),
    ],
)
def test_join_uri(base: str, parts: tuple[str, ...], joined: str) -> None:
    assert join_uri(base, *parts) == joined
