"""Packs of files and back, by the names of the files."""

from __future__ import annotations

import os
from typing import Any

import pytest

from ncbatch.codec.bits_back.pack_file import with_names
from ncbatch.decoding.decoded_names import image_name
from ncbatch.decoding.destination import Destination, open_destination
from ncbatch.decoding.files import FileOptions, decode_pack_file, named_pack, pack_files
from ncbatch.errors import UsageError
from ncbatch.plan.request import make_variant
from ncbatch.plan.spec import Variant
from ncbatch.store import StoreOptions, join_uri, open_store
from ncbatch.store.objects import read_object
from tests.workbench import encoded_as, make_image

PICTURES = {"a.png": make_image(seed=1), "b.png": make_image(70, 64, seed=2), "c.png": make_image(seed=3)}
OPTIONS = FileOptions(max_pixels=10**6)


def _files(tmp_path: Any) -> list[str]:
    for key, pixels in PICTURES.items():
        (tmp_path / key).write_bytes(encoded_as(pixels))
    return [str(tmp_path / key) for key in sorted(PICTURES)]


def _variant() -> Variant:
    return make_variant({"method": "bits-back+bbvi", "bbvi_steps": 2}, StoreOptions())


def test_a_pack_of_files_and_back(tmp_path: Any) -> None:
    options, side = StoreOptions(), tmp_path / "side"
    side.write_bytes(bytes(range(256)) * 40)
    packed = pack_files(_files(tmp_path), _variant(), options, str(side))
    assert [e.outcome.bits_back is None for e in packed.encoded] == [False] * 3
    (tmp_path / "album.ncbp").write_bytes(packed.pack.data)
    store = open_store(str(tmp_path / "out"), create=True)
    out, uri = Destination(store), str(tmp_path / "album.ncbp")
    names = list(decode_pack_file(uri, out, OPTIONS))
    assert names == ["00002.png", "00001.png", "00000.png", "side-information"]
    assert store.get("side-information") == side.read_bytes()
    assert list(decode_pack_file(uri, out, OPTIONS, first=2)) == ["00002.png"]
    alone = decode_pack_file(uri, out, OPTIONS, first=1, alone=True)
    assert list(alone) == ["00001.png"]
    with pytest.raises(UsageError, match="no image 3: the pack has 3"):
        list(decode_pack_file(uri, out, OPTIONS, first=3))


def test_a_pack_of_files_knows_their_names(tmp_path: Any) -> None:
    """Names are not to lead out of the destination, and equal ones keep apart, whichever are asked for."""
    folder = tmp_path / "more"
    folder.mkdir()
    files = [*_files(tmp_path), *_files(folder)[:1]]
    strange = tmp_path / "é #%41.tif.png"
    strange.write_bytes(encoded_as(PICTURES["b.png"]))
    packed = pack_files([*files, strange.as_uri()], _variant(), StoreOptions(), None)
    album = tmp_path / "album.ncbp"
    album.write_bytes(named_pack(packed.pack.data, [*files, strange.as_uri()]))
    store = open_store(str(tmp_path / "out"), create=True)
    names = list(decode_pack_file(str(album), Destination(store), OPTIONS))
    expected = ["a.png", "b.png", "c.png", "a~3.png", image_name(strange.name)]
    assert names == expected[::-1]
    for index in (0, 3):
        asked = decode_pack_file(str(album), Destination(store), OPTIONS, first=index, alone=True)
        assert list(asked) == [expected[index]], "the same image under the same name"
    one = open_destination(str(tmp_path / "one.png"), StoreOptions(), one_image=True, overwrite=False)
    assert list(decode_pack_file(str(album), one, OPTIONS, first=1, alone=True)) == ["one.png"]
    assert (tmp_path / "one.png").read_bytes() == store.get("b.png")
    evil = [[b"../../up.png", b"/etc/x", b"..", b"", b"a/b\xff.png"], [b"", b"", b".", b"..", b"x/.."]]
    for number, given in enumerate(evil):
        album.write_bytes(with_names(album.read_bytes(), given))
        out = open_store(str(tmp_path / "deep" / f"out{number}"), create=True)
        names = list(decode_pack_file(str(album), Destination(out), OPTIONS))
        assert len(names) == len(set(names)) == 5
        assert sorted(info.key for info in out.list()) == sorted(names)
    assert not [path for path in tmp_path.rglob("*up.png") if path.parent != tmp_path / "deep" / "out0"]


def test_objects_of_a_folder_are_found_by_their_uris(tmp_path: Any) -> None:
    """Whatever bytes their names are of."""
    names = [b"caf\xe9.png", b"sub/a.png", "\u00e9.png".encode(), rb"back\slash.png", b"per%41cent.png"]
    for name in names:
        path = tmp_path / os.fsdecode(name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(name)
    for folder in (str(tmp_path), tmp_path.as_uri() + "/"):
        keys = [info.key for info in open_store(folder).list()]
        found = [read_object(join_uri(folder, key), StoreOptions()) for key in keys]
        assert sorted(found) == sorted(names)


def test_side_information_that_is_too_short_says_how_much_it_takes(tmp_path: Any) -> None:
    side = tmp_path / "side"
    side.write_bytes(b"short")
    with pytest.raises(UsageError, match=r"has 5 bytes, too few .* takes some \d+"):
        pack_files(_files(tmp_path), _variant(), StoreOptions(), str(side))
    side.write_bytes(b"")
    with pytest.raises(UsageError, match="has 0 bytes, too few"):
        pack_files(_files(tmp_path), _variant(), StoreOptions(), str(side))


def test_a_file_that_is_no_image_is_named(tmp_path: Any) -> None:
    (tmp_path / "x.png").write_bytes(b"no image")
    with pytest.raises(UsageError, match=r"x\.png cannot be packed"):
        pack_files([str(tmp_path / "x.png")], _variant(), StoreOptions(), None)
