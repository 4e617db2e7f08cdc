"""A run decoded into tars, here and by the units of a check on a cluster."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ncbatch.cli.main import main
from ncbatch.codec.methods import Jpeg
from ncbatch.decoding.check_plan import Cutting
from ncbatch.decoding.destination import Destination
from ncbatch.decoding.run_reader import RunReader
from ncbatch.plan.spec import Variant
from ncbatch.plan.tar_names import sample_names
from ncbatch.store import LocalStore, ObjectInfo, Store, open_store
from ncbatch.store.spans import Span, Spans
from ncbatch.store.tars import Member, pack, unpack
from tests.decoding.test_checks import _checker, _planned
from tests.workbench import ATTEMPTS, Workbench, make_image

KEYS = ["a/1.jpg", "a/2.x.png", "a/2.y.png", "a/3.png", "b/1.png"]
NAMES = ["a/1.png", "a/2%2Ex.png", "a/2%2Ey.png", "a/3.png", "b/1.png"]


@pytest.fixture
def run(local: Workbench) -> Workbench:
    """A run of tars, with one image that failed."""
    local.add({key: make_image(seed=n) for n, key in enumerate(KEYS)} | {"bad.png": b"none"})
    local.encode(local.spec(Variant(name="jpeg", recipe=Jpeg(quality=70)), output_format="tar"))
    return local


@pytest.fixture
def folder(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "decoded"), create=True)


def contents(folder: Store) -> dict[str, dict[str, np.ndarray]]:
    found = {}
    for info in folder.list():
        with tarfile.open(fileobj=io.BytesIO(folder.get(info.key))) as tar:
            found[info.key] = {
                member.name: np.asarray(Image.open(tar.extractfile(member)))  # type: ignore[arg-type]
                for member in tar
            }
    return found


def test_images_become_members_of_tars_of_a_size(run: Workbench, folder: Store) -> None:
    reader = RunReader(run.output)
    one = len(_png(reader.image("a/3.png", "jpeg")))
    found = list(reader.decode_into(Destination(folder, tar_bytes=2 * one)))
    tars = contents(folder)
    assert len(tars) > 1 and list(tars) == [f"images-{n:05d}.tar" for n in range(len(tars))]
    assert [name for members in tars.values() for name in members] == NAMES
    assert {f.written for f in found} == {f"{tar}/{n}" for tar, members in tars.items() for n in members}
    for key, name in zip(KEYS, NAMES, strict=True):
        (pixels,) = (members[name] for members in tars.values() if name in members)
        np.testing.assert_array_equal(pixels, reader.image(key, "jpeg"))
    again = list(reader.decode_into(Destination(folder, tar_bytes=2 * one)))
    assert [finding.problem for finding in again] == [None] * 5, "the same images make the same tars"


def _png(pixels: np.ndarray) -> bytes:
    from ncbatch.images.write import write_png

    return write_png(pixels)


def test_what_stands_in_the_place_of_a_tar_is_told_of_its_images(run: Workbench, folder: Store) -> None:
    folder.put("images-00000.tar", b"something else")
    found = list(RunReader(run.output).decode_into(Destination(folder, tar_bytes=1 << 20)))
    assert len(found) == 5 and all("other contents" in str(f.problem) and not f.written for f in found)
    into = Destination(folder, overwrite=True, tar_bytes=1 << 20)
    assert all(f.written for f in RunReader(run.output).decode_into(into))


def test_an_image_that_does_not_decode_is_not_in_its_tar(run: Workbench, folder: Store) -> None:
    row = run.rows()["a/3.png"]
    data = bytearray(run.output.get(str(row.bitstream_key)))
    data[(row.offset or 0) + 30] ^= 255
    run.output.put(str(row.bitstream_key), bytes(data))
    found = list(RunReader(run.output).decode_into(Destination(folder, tar_bytes=1 << 20)))
    assert [f.image_key for f in found if f.problem] == ["a/3.png"]
    (members,) = contents(folder).values()
    assert list(members) == [name for name in NAMES if name != "a/3.png"]


def test_a_unit_of_a_check_writes_tars_of_its_own(run: Workbench, folder: Store) -> None:
    names = sample_names(KEYS)
    cutting = Cutting({"jpeg": 10**9}, frozenset(), lambda key, variant: f"{names[key]}.png")
    check = _planned(run, cutting, "decode")
    (unit,) = check.units()
    into, done = Destination(folder, tar_bytes=1 << 20), list[str]()
    checker = _checker(run, check, into)
    checker.probe(unit, "a/1.jpg")
    assert not list(folder.list()), "a probe writes nothing"
    result = checker.run_unit(unit, ATTEMPTS[0], {}, done.append)
    assert (result.ok, result.failed) == (5, 0)
    ((tar, members),) = contents(folder).items()
    assert tar.endswith("-00000.tar") and sorted(members) == NAMES
    assert sorted(done) == sorted(2 * KEYS), "each once when it is decoded and once when it is written"


def test_the_command_writes_tars(run: Workbench, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "png")
    assert main(["decode", run.output.uri, out, "--output-format", "tar"]) == 0
    assert "5 images decoded into" in capsys.readouterr().out
    assert [path.name for path in Path(out).iterdir()] == ["images-00000.tar"]
    assert main(["decode", f"{run.output.uri}x.ncb", out, "--output-format", "tar"]) != 0
    assert "--output-format tar is of runs" in capsys.readouterr().err


def test_names_of_samples() -> None:
    keys = ["s.tar/7.jpg", "a.jpg", "a.png", "a.jpg.png", "b", "__m__/c.png", "d.tar.gz"]
    names = ["s.tar/7", "a", "a%2Epng", "a%2Ejpg", "b", "%5F_m__/c", "d%2Etar%2Egz"]
    assert list(sample_names(keys).values()) == names
    assert len(set(sample_names(["a.png", "a.jpg.png", "a.jpg"]).values())) == 3


def test_an_archive_is_what_tarfile_reads_and_says_where() -> None:
    files = [("a", b""), ("folder/" + "n" * 300, b"x" * 513), ("ü", b"y" * 512)]
    archive, members = pack(files)
    assert list(unpack(archive, "t")) == files
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        assert [Member(i.name, i.offset_data, i.size) for i in tar] == members
    assert list(unpack(archive[: members[1].offset + 512], "t")) == files[:1], "as far as it is whole"
    assert pack([])[1] == [] and list(unpack(pack([])[0], "t")) == []


def test_what_lies_side_by_side_comes_with_one_request(
    local: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = bytes(range(256)) * 4096
    local.output.put("one", data)
    local.output.put("two", data[:100])
    read: list[tuple[str, int, int]] = []
    get_range = LocalStore.get_range_with_info

    def noted(store: LocalStore, key: str, start: int, length: int) -> tuple[ObjectInfo, bytes]:
        read.append((key, start, length))
        return get_range(store, key, start, length)

    monkeypatch.setattr(LocalStore, "get_range_with_info", noted)
    wanted = [Span("one", 10, 20), Span("two", 90, 20), Span("one", 40, 8), Span("one", 500_000, 9)]
    spans = Spans(local.output, wanted)
    assert [spans.read(span) for span in wanted] == [
        data[10:30], data[90:100], data[40:48], data[500_000:500_009],
    ]  # fmt: skip
    assert read == [("one", 10, 38), ("two", 90, 20), ("one", 500_000, 9)]
    assert spans.read(wanted[0]) == data[10:30] and len(read) == 4, "asked for again, it is read again"
