"""Object keys: distinct, safe everywhere, short enough."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ncbatch import layout
from ncbatch.store import Store
from tests.workbench import Workbench

NASTY = (
    "../up.png", "../../etc/passwd", "a", "a/b", "a//b", "a/", "/a", ".", "..", "./a", "a/./b", ".hidden",
    ".hidden/x", "%", "%/%", "%2E", "sp ace+%25.png", "a.", "a ", "a./b", "a /b", "x.ncb/y", "x.ncb",
    "x.png/y",
    "x.png", "x.PNG", "x", "~", "~a/b", "%7E", "tab\there", "nul\x01\x7f", "line\nfeed", "back\\slash",
    "ünï/日本.jpg", "q?a#b&c=d", "'\"<>|*:", "k" * 900, "k" * 899 + "j", "/".join(["d" * 90] * 10),
    "ü" * 400, "x.g1", "x.0123abcd-7", "x.g1.g2",
)  # fmt: skip
_PART = st.sampled_from(
    [
        "a",
        "b",
        ".",
        "..",
        "/",
        "//",
        "~",
        "%",
        "%2E",
        " ",
        "ü",
        ".ncb",
        ".png",
        ".g1",
        ".0123abcd-7",
        "\\",
        "\n",
    ]
)
KEYS = st.one_of(
    st.lists(_PART, min_size=1, max_size=12).map("".join),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60),
    st.sampled_from(NASTY),
)


def _names(key: str) -> list[str]:
    """Every bitstream key that an image may get."""
    attempts = (None, "0123abcd-7", "0123abcd-71")
    return [layout.bitstream_key("v", key, g, a) for g in (0, 1, 2) for a in attempts]


@given(st.lists(KEYS, min_size=2, max_size=6, unique=True))
def test_no_two_images_share_a_key(keys: list[str]) -> None:
    names = [name for key in keys for name in _names(key)]
    assert len(set(names)) == len(names)
    # and on a file system, none is a folder that another needs
    folders = {"/".join(n.split("/")[:depth]) for n in names for depth in range(1, n.count("/") + 1)}
    assert folders.isdisjoint(names)


def test_the_nasty_keys_are_told_apart() -> None:
    names = [name for key in NASTY for name in _names(key)]
    assert len(set(names)) == len(names)


@given(KEYS)
def test_names_stay_in_their_folder_and_short(key: str) -> None:
    name = layout.safe_name(key)
    segments = name.split("/")
    assert all(segments), name
    assert all(not s.startswith(".") and not s.endswith((".", " ")) for s in segments), name
    assert all(len(s.encode()) < 200 for s in segments)
    assert re.fullmatch(r"[A-Za-z0-9 !$&'()+,\-.=@_%~/]+", name)


@given(KEYS)
def test_the_last_part_of_a_name_says_what_the_key_was(key: str) -> None:
    name = layout.safe_name(key).rpartition("/")[2]
    last = key.rpartition("/")[2]
    assert layout.unescaped(name) == (name if "~" in name else last) or not last
    for other in ("%C3%A9 %", "100%", "%e9", "%2F", "%25.png~", "é"):
        assert layout.unescaped(other) == other


@given(KEYS)
def test_the_longest_key_fits_s3_behind_a_long_prefix(key: str) -> None:
    name = layout.bitstream_key("v" * 64, key, 99_999, "0123abcd-123456789")
    assert len(name.encode()) < 1024 - 150


@pytest.mark.parametrize("key", ["a.jpg", "holiday/2024 (1).png", "IMG_1234.JPG", "a-b_c+d=e@f,g"])
def test_plain_keys_stay_as_they_are(key: str) -> None:
    assert layout.safe_name(key) == key
    assert layout.bitstream_key("sga", key, 0) == f"bitstreams/sga/{key}.ncb"


def test_generations_and_attempts_are_told_from_images() -> None:
    assert layout.bitstream_key("v", "a", 1) == "bitstreams/v/a.g1.ncb"
    assert layout.bitstream_key("v", "a.g1", 0) == "bitstreams/v/a%2Eg1.ncb"
    ours = layout.attempt_named(layout.bitstream_stem("v", "a", 0))
    assert ours.fullmatch(layout.bitstream_key("v", "a", 0, "0123abcd-7"))
    for other in ("a.g1", "a.0123abcd-7", "a.b", "ab", "a/b"):
        assert not any(ours.fullmatch(name) for name in _names(other)), other
    assert not any(ours.fullmatch(layout.bitstream_key("v", "a", g, "0123abcd-7")) for g in (1, 2))


def _keep_all(store: Store) -> None:
    names = {name: f"{key} {name}".encode() for key in NASTY for name in _names(key)[:2]}
    for name, data in names.items():
        assert store.put_if_absent(name, data), name
    assert {info.key for info in store.list(layout.BITSTREAMS_PREFIX)} == names.keys()
    for name, data in names.items():
        assert store.get(name) == data


def test_every_store_takes_them(bench: Workbench) -> None:
    _keep_all(bench.output)
