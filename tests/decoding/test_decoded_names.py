"""What decoded images are called."""

from __future__ import annotations

import csv
import io
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ncbatch.decoding.decoded_names import DecodedNames, file_name, image_name
from ncbatch.store import open_store

PARTS = st.text(st.sampled_from("aA.é\u0301e\\x5c9~%\n\t日 "), max_size=5) | st.sampled_from(
    ["", ".", "..", "a.png", "A.PNG", "a.jpg", "b" * 255 + ".png", "日" * 120, "\\xc3\\xa9", "caf\\xe9.png"]
)
KEYS = st.lists(PARTS, min_size=1, max_size=4).map("/".join).filter(bool)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("a.jpg", "a.png"),
        ("é.png", "é.png"),
        ("ünï/日本 (1).JPEG", "ünï/日本 (1).png"),
        ("q?#&=%25~.webp", "q?#&=%25~.png"),
        ("caf\\xe9.png", "caf\\xe9.png"),
        ("no suffix", "no suffix.png"),
        ("archive.tar", "archive.tar.png"),
        (".png", "%2Epng.png"),
        ("../up.png", "%2E%2E/up.png"),
        ("a//b.png", "a/%/b.png"),
        ("a.png/b.webp", "a.png/b.png"),
        ("tab\t.png", "tab%09.png"),
        ("\\xc3\\xa9.png", "%5Cxc3%5Cxa9.png"),
        ("a/", "a/%.png"),
    ],
)
def test_names_stay_readable(key: str, name: str) -> None:
    assert image_name(key) == name
    assert DecodedNames([key])[key] == name


def _table(names: DecodedNames) -> dict[str, str]:
    rows = list(csv.reader(io.StringIO((names.table() or b"").decode())))
    assert rows == [] or rows[0] == ["image_key", "name"]
    return dict(rows[1:])


def test_what_collides_or_is_too_long_gets_a_hash_and_a_line() -> None:
    keys = [
        "a.jpg",
        "a.png",
        "A.PNG",
        "x.png/y.png",
        "x.jpg",
        "é.png",
        "e\u0301.png",
        "k" * 300,
        "p" * 300 + "/q.png",
    ]
    names = DecodedNames(keys)
    found = {key: names[key] for key in keys}
    assert found["A.PNG"] == "A.png" and found["é.png"] in ("é.png", _table(names).get("é.png"))
    assert len(set(found.values())) == len(keys)
    assert _table(names) == {key: name for key, name in found.items() if "~" in name}
    assert len(_table(names)) == 6
    assert DecodedNames(reversed(keys))["a.png"] == found["a.png"], "whatever the order"
    assert DecodedNames(["plain.png", "é.jpg"]).table() is None


@given(st.lists(KEYS, min_size=1, max_size=8, unique=True))
def test_no_two_are_one_file_and_none_leaves(keys: list[str]) -> None:
    names = DecodedNames(keys)
    found = [names[key] for key in keys]
    folded = [unicodedata.normalize("NFC", name).casefold() for name in found]
    assert len(set(folded)) == len(keys)
    folders = {
        "/".join(name.split("/")[:depth]) for name in folded for depth in range(1, name.count("/") + 1)
    }
    assert folders.isdisjoint(folded)
    for name in found:
        parts = name.split("/")
        assert all(parts) and not any(part.startswith(".") for part in parts)
        assert all(unicodedata.category(c) != "Cc" for c in name)
        assert len(name.encode()) <= 700
    assert _table(names).keys() <= set(keys)


def test_a_folder_takes_them_all(tmp_path: Path) -> None:
    store = open_store(str(tmp_path), create=True)
    keys = [
        "é.png",
        "caf\\xe9.png",
        "\\xc3\\xa9.png",
        "b" * 300,
        "日" * 120 + "/x.png",
        "a",
        "a.png/b",
        "tab\t",
        "x/../y",
    ]
    names = DecodedNames(keys)
    for key in keys:
        store.put(names[key], key.encode())
    assert {info.key for info in store.list()} == {names[key] for key in keys}
    assert (tmp_path / "é.png").exists()


def test_no_name_can_be_kept_from_others_on_purpose() -> None:
    mine = DecodedNames(["a.jpg", "a.png"])["a.png"]
    keys = ["a.jpg", "a.png", mine, f"{mine}/x.png", mine.replace(".png", ".jpg")]
    names = DecodedNames(keys)
    assert len({names[key] for key in keys}) == len(keys)


def test_a_single_file_of_a_run_has_its_images_name() -> None:
    assert file_name("%C3%A9.png.ncb") == "é.png"
    assert file_name("é.png.ncb") == "é.png"
    assert file_name("50%25 off.ncb") == "50% off.png"
    assert file_name("100%.ncb") == "100%.png"
