"""Reading a run back: images under safe names, and proof that the bytes are there."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ncbatch import layout
from ncbatch.codec.bitstream import parse, serialise
from ncbatch.codec.decode import decode
from ncbatch.codec.encode import encode
from ncbatch.codec.errors import BitstreamError, ModelError, WrongModelError
from ncbatch.decoding.destination import Destination, OccupiedError, open_destination
from ncbatch.decoding.files import FileOptions, decode_file
from ncbatch.decoding.findings import Finding
from ncbatch.decoding.run_reader import RunReader
from ncbatch.errors import UsageError
from ncbatch.models import loading
from ncbatch.models.loading import keep_model
from ncbatch.store import (
    AccessDenied,
    DestinationRefused,
    Store,
    StoreError,
    StoreFull,
    StoreOptions,
    StoreUnavailable,
    open_store,
)
from ncbatch.worker.unit import run_unit
from tests.workbench import AMORTIZED, ATTEMPTS, CHECKPOINT, MODEL, Workbench, make_image, make_variant, sga

OPTIONS = StoreOptions()
PICTURES = {f"{name}.png": make_image(seed=n) for n, name in enumerate("abc")}


def _encode(bench: Workbench, *variants: str, **fields: Any) -> None:
    spec = bench.spec(*(make_variant(name=name) for name in variants or ("v",)), **fields)
    keep_model(bench.output, CHECKPOINT)
    for unit in bench.open(spec).units:
        run_unit(bench.workspace(spec), unit, ATTEMPTS[0], {})


@pytest.fixture
def destination(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "deep" / "decoded"), create=True)


def _png(store: Store, name: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(store.get(name))))


def _written(bench: Workbench, destination: Store, variant: str | None = None) -> dict[str, str | None]:
    findings = list(RunReader(bench.output, variant=variant).decode_into(Destination(destination)))
    assert not [finding.problem for finding in findings if finding.problem]
    names = [finding.written for finding in findings]
    assert sorted(map(str, names), key=str.encode) == [
        i.key for i in destination.list() if i.key != "names.csv"
    ]
    return {finding.image_key: finding.written for finding in findings}


def test_every_image_comes_back(bench: Workbench, destination: Store) -> None:
    bench.add({**PICTURES, "bad.png": b"text"})
    _encode(bench)
    names = _written(bench, destination)
    assert names == {key: key for key in PICTURES}, "failed rows have no image"
    for key, row in bench.rows().items():
        if row.status == "ok":
            np.testing.assert_array_equal(_png(destination, key), decode(MODEL, bench.bitstream(row)))


def test_no_two_images_get_one_name(local: Workbench, destination: Store) -> None:
    keys = ["a.jpg", "a.png", "A.PNG", "a", "b/a.png", "B/A.png"]
    local.add({key: make_image(seed=n) for n, key in enumerate(keys)})
    _encode(local)
    names = _written(local, destination)
    assert names.keys() == set(keys)
    assert len({str(name).lower() for name in names.values()}) == len(keys), "file systems may ignore case"
    table = dict(line.split(",") for line in destination.get("names.csv").decode().splitlines()[1:])
    plain = {key: key.replace(".jpg", ".png").replace(".PNG", ".png") for key in keys}
    assert {key: table.get(key, plain[key] if key != "a" else "a.png") for key in keys} == names
    for key, row in local.rows().items():
        np.testing.assert_array_equal(_png(destination, str(names[key])), decode(MODEL, local.bitstream(row)))


@pytest.mark.s3
@pytest.mark.parametrize("server", ["rclone", "moto", "local"])
def test_strange_keys_go_all_the_way(
    server: str, request: pytest.FixtureRequest, destination: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = _strange_bench(server, request, monkeypatch)
    keys = ["sp ace+%25.png", "ünï/日本.jpg", "x.ncb/y.png", "k" * 200 + ".png", "a.g1", "a", "q?#&=.png"]
    if server == "moto":
        keys += ["../up.png", "a/b", "a//b.png", "../../../etc/x.png", "k" * 900 + ".png", "~", "tab\t.png"]
    if server == "local":
        keys += ["back\\slash.png", "~", "tab\t.png", "line\nfeed.png"]
    bench.add({key: make_image(seed=n) for n, key in enumerate(keys)})
    _encode(bench, include=("*",))
    assert {key: row.status for key, row in bench.rows().items()} == dict.fromkeys(keys, "ok")
    names = _written(bench, destination)
    assert names.keys() == set(keys)
    root = Path(destination.root)  # type: ignore[attr-defined]
    outside = [path for path in root.parent.parent.rglob("*.png") if root not in path.parents]
    assert [path for path in outside if "corpus" not in path.parts] == []
    assert [finding.problem for finding in RunReader(bench.output).verify()] == [None] * len(keys)


def _strange_bench(server: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Workbench:
    if server == "local":
        workbench: Workbench = request.getfixturevalue("local")
        return workbench
    running = request.getfixturevalue(f"{server}_server")
    running.use(monkeypatch)
    bucket = running.make_bucket()
    corpus, output = (open_store(f"s3://{bucket}/{prefix}") for prefix in ("in", "out/" + "p" * 60))
    return Workbench(corpus, output, running.conditions_honoured)


def test_several_variants_get_folders(local: Workbench, destination: Store) -> None:
    local.add(PICTURES)
    _encode(local, "one", "two")
    reader = RunReader(local.output)
    assert len(reader.rows) == 6
    written = [finding.written for finding in reader.decode_into(Destination(destination))]
    assert set(written) == {f"{variant}/{key}" for variant in ("one", "two") for key in PICTURES}
    assert len(list(RunReader(local.output).verify())) == 6


def test_one_variant_of_several_needs_no_folder(local: Workbench, destination: Store) -> None:
    local.add(PICTURES)
    _encode(local, "one", "two")
    assert set(_written(local, destination, "two").values()) == PICTURES.keys()
    with pytest.raises(UsageError, match="no variant 'three'; it has one, two"):
        RunReader(local.output, variant="three")


# Verifying


def test_a_whole_run_is_found_whole(local: Workbench) -> None:
    local.add(PICTURES)
    _encode(local)
    assert list(RunReader(local.output).verify()) == [Finding(key, "v") for key in PICTURES]


def test_what_is_missing_or_altered_is_found(bench: Workbench, destination: Store) -> None:
    bench.add(
        {
            f"{name}.png": make_image(seed=n)
            for n, name in enumerate(("cut", "flipped", "gone", "other", "whole"))
        }
    )
    _encode(bench)
    keys = {key.partition(".")[0]: str(row.bitstream_key) for key, row in bench.rows().items()}
    data = {name: bench.output.get(key) for name, key in keys.items()}
    bench.output.delete(keys["gone"])
    bench.output.put(keys["cut"], data["cut"][:-1])
    bench.output.put(keys["flipped"], bytes([data["flipped"][0] ^ 1]) + data["flipped"][1:])
    bench.output.put(keys["other"], data["whole"])
    expected = {
        "gone.png": f"{keys['gone']} is missing",
        **{
            f"{name}.png": f"{keys[name]} is not what was committed: its hash differs"
            for name in ("cut", "flipped", "other")
        },
        "whole.png": None,
    }
    assert {f.image_key: f.problem for f in RunReader(bench.output).verify()} == expected
    findings = list(RunReader(bench.output).decode_into(Destination(destination)))
    assert {f.image_key: f.problem for f in findings} == expected
    assert [info.key for info in destination.list()] == ["whole.png"], (
        "the others do not keep it from decoding"
    )


class _Forbidding:
    """A store that denies access to some keys."""

    def __init__(self, store: Store, *keys: str) -> None:
        self._store, self._keys = store, keys

    def get(self, key: str) -> bytes:
        if key in self._keys:
            raise AccessDenied(f"access to {key} is denied")
        return self._store.get(key)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def test_access_to_one_object_is_denied(local: Workbench, destination: Store) -> None:
    local.add({"a.png": make_image(), "b.png": make_image(seed=1)})
    _encode(local)
    key = str(local.rows()["a.png"].bitstream_key)
    forbidding: Any = _Forbidding(local.output, key)
    expected = {"a.png": f"access to {key} is denied", "b.png": None}
    findings = list(RunReader(forbidding).verify())
    assert {f.image_key: f.problem for f in findings} == expected
    assert not any(f.damaged for f in findings), "nobody knows whether it is"
    findings = list(RunReader(forbidding).decode_into(Destination(destination)))
    assert {f.image_key: f.problem for f in findings} == expected


def test_access_is_lost_to_all_of_a_run(local: Workbench) -> None:
    local.add({"a.png": make_image(), "b.png": make_image(seed=1)})
    _encode(local)
    keys = [str(row.bitstream_key) for row in local.rows().values()]
    forbidding: Any = _Forbidding(local.output)
    reader = RunReader(forbidding)
    forbidding._keys = (*keys, layout.RUN)
    with pytest.raises(AccessDenied, match=layout.RUN):
        list(reader.verify())


@pytest.mark.parametrize("damage", ["missing", "cut", "flipped"])
def test_a_run_without_its_model_is_found(local: Workbench, damage: str) -> None:
    local.add({"a.png": make_image()})
    _encode(local)
    key = layout.model_key(CHECKPOINT.digest)
    data = local.output.get(key)
    local.output.delete(key)
    if damage != "missing":
        middle = len(data) // 2
        flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        local.output.put(key, data[:-1] if damage == "cut" else flipped)
    (finding,) = RunReader(local.output).verify()
    assert finding.problem is not None
    assert key in finding.problem


# Single files


def _file(tmp_path: Path, data: bytes, name: str = "my image.jpg.ncb") -> str:
    path = tmp_path / name
    path.write_bytes(data)
    return str(path)


@pytest.fixture(scope="module")
def stream() -> bytes:
    return encode(MODEL, [make_image()], AMORTIZED)[0].outcome.data


@pytest.mark.parametrize("model", [None, "base-0.010", "kept"])
def test_a_single_file_is_decoded(
    tmp_path: Path, destination: Store, stream: bytes, model: str | None
) -> None:
    if model == "kept":
        model = str(tmp_path / "kept.safetensors")
        Path(model).write_bytes(CHECKPOINT.to_bytes())
    name = decode_file(_file(tmp_path, stream), Destination(destination), FileOptions(model=model))
    assert name == "my image.png"
    uri = _file(tmp_path, stream, "%C3%A9.png.ncb")
    named = decode_file(uri, Destination(destination), FileOptions())
    assert named == "é.png"
    np.testing.assert_array_equal(_png(destination, name), decode(MODEL, stream))


def test_a_single_file_of_a_run(local: Workbench, destination: Store) -> None:
    local.add({"a.png": make_image()})
    row = local.encode(local.spec(make_variant(sga(2))))["a.png"]
    uri = f"{local.output.uri}{row.bitstream_key}"
    name = decode_file(uri, Destination(destination), FileOptions())
    assert name.startswith("a.") and name.endswith(".png")
    np.testing.assert_array_equal(_png(destination, name), decode(MODEL, local.bitstream(row)))


def test_a_file_of_an_unknown_model_is_refused(tmp_path: Path, destination: Store, stream: bytes) -> None:
    parsed = parse(stream, max_pixels=10**6)
    other = serialise(type(parsed)(parsed.method, "00" * 8, parsed.width, parsed.height, parsed.payload))
    with pytest.raises(
        WrongModelError, match=r"no built-in model has the digest 0{16}.*nor has a models/ folder.*--model"
    ):
        decode_file(_file(tmp_path, other), Destination(destination), FileOptions())
    with pytest.raises(WrongModelError, match=r"made with model 0{16}, not with"):
        decode_file(
            _file(tmp_path, other),
            Destination(destination),
            FileOptions(model="base-0.010", max_pixels=10**6),
        )
    with pytest.raises(ModelError, match="there is no model 'nothing'"):
        decode_file(
            _file(tmp_path, stream), Destination(destination), FileOptions(model="nothing", max_pixels=10**6)
        )


def test_what_is_no_whole_file_is_refused(tmp_path: Path, destination: Store, stream: bytes) -> None:
    for damaged in (b"", b"text", stream[:-1], stream[:20], stream[:30] + b"\xff" + stream[31:]):
        with pytest.raises(BitstreamError):
            decode_file(_file(tmp_path, damaged), Destination(destination), FileOptions())
    with pytest.raises(BitstreamError, match="more than the limit of 4,095"):
        decode_file(_file(tmp_path, stream), Destination(destination), FileOptions(max_pixels=4095))
    with pytest.raises(UsageError, match=r"there is no file .*gone\.ncb"):
        decode_file(str(tmp_path / "gone.ncb"), Destination(destination), FileOptions())
    assert list(destination.list()) == []


def test_a_single_file_finds_the_model_of_the_run_around_it(
    tmp_path: Path, local: Workbench, destination: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a model that is not built in; however the file is named, and whatever the run was called."""
    local.add({"sub/a.png": make_image()})
    row = local.encode(local.spec())["sub/a.png"]
    keep_model(local.output, CHECKPOINT)
    monkeypatch.setattr(loading, "builtin_models", dict)
    monkeypatch.chdir(local.output.root / "bitstreams" / "v")  # type: ignore[attr-defined]
    expected = decode(MODEL, local.bitstream(row))
    for uri in (f"{local.output.uri}{row.bitstream_key}", "sub/a.png.ncb", "../v/sub/a.png.ncb"):
        name = decode_file(uri, Destination(destination), FileOptions())
        np.testing.assert_array_equal(_png(destination, name), expected)
    alone = _file(tmp_path, local.bitstream(row))
    with pytest.raises(WrongModelError, match=r"nor has a models/ folder above .*my image\.jpg\.ncb"):
        decode_file(alone, Destination(destination), FileOptions())


@pytest.mark.s3
def test_a_single_file_in_a_bucket_finds_the_model_of_its_run(
    on_s3: Workbench, destination: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_s3.add({"a.png": make_image()})
    row = on_s3.encode(on_s3.spec())["a.png"]
    keep_model(on_s3.output, CHECKPOINT)
    monkeypatch.setattr(loading, "builtin_models", dict)
    name = decode_file(f"{on_s3.output.uri}{row.bitstream_key}", Destination(destination), FileOptions())
    np.testing.assert_array_equal(_png(destination, name), decode(MODEL, on_s3.bitstream(row)))


# What stands at the destination


def test_decoding_again_goes_on_and_replaces_nothing_else(local: Workbench, destination: Store) -> None:
    local.add(PICTURES)
    _encode(local)
    _written(local, destination)
    destination.delete("a.png")
    destination.put("b.png", b"somebody's own")
    found = {f.image_key: f for f in RunReader(local.output).decode_into(Destination(destination))}
    assert [found[key].written for key in PICTURES] == ["a.png", None, "c.png"]
    assert "b.png is there already, with other contents" in str(found["b.png"].problem)
    assert "--overwrite" in str(found["b.png"].problem)
    assert destination.get("b.png") == b"somebody's own"
    again = RunReader(local.output).decode_into(Destination(destination, overwrite=True))
    assert [f.written for f in again] == list(PICTURES)
    np.testing.assert_array_equal(
        _png(destination, "b.png"), decode(MODEL, local.bitstream(local.rows()["b.png"]))
    )


def test_what_stands_in_the_way_of_an_image_is_a_finding(local: Workbench, destination: Store) -> None:
    local.add({"a.png": make_image(), "b/x.png": make_image(seed=1), "c.png": make_image(seed=2)})
    _encode(local)
    destination.put("b", b"a file where a folder belongs")
    for name in ("c.png/d", "images-00000.tar/d"):
        destination.put(name, b"in a folder where a file belongs")

    def decoded(tar_bytes: int | None) -> dict[str, Finding]:
        found = RunReader(local.output).decode_into(Destination(destination, tar_bytes=tar_bytes))
        return {finding.image_key: finding for finding in found}

    told = decoded(None)
    assert {key: f.written for key, f in told.items()} == {"a.png": "a.png", "b/x.png": None, "c.png": None}
    assert "needs a folder where a file is, or a file where a folder is" in str(told["b/x.png"].problem)
    told = decoded(1 << 20)
    assert [f.written for f in told.values()] == [None] * 3 and "000.tar' in" in str(told["a.png"].problem)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_destination_that_refuses_is_told_from_one_that_is_away(
    destination: Store, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    def raises(error: StoreError) -> type[StoreError]:
        def fail(*_: object) -> bool:
            raise error

        for name in ("put", "put_if_absent"):
            monkeypatch.setattr(destination, name, fail)
        with pytest.raises(StoreError, match=f"^{error}$") as told:
            Destination(destination, overwrite=overwrite).write("a.png", b"")
        return told.type

    assert raises(AccessDenied("no")) is raises(StoreError("no")) is DestinationRefused
    assert raises(StoreFull("full")) is StoreFull and raises(StoreUnavailable("503")) is StoreUnavailable


def test_the_table_of_names_replaces_only_its_like(local: Workbench, destination: Store) -> None:
    local.add({"a.jpg": make_image(), "a.png": make_image(seed=1)})
    _encode(local)
    destination.put("names.csv", b"somebody's own")
    with pytest.raises(OccupiedError, match=r"names\.csv is there already"):
        next(RunReader(local.output).decode_into(Destination(destination)))
    assert [(i.key, destination.get(i.key)) for i in destination.list()] == [("names.csv", b"somebody's own")]
    destination.put("names.csv", b"image_key,name\nof,an earlier decoding\n")
    _written(local, destination)
    assert b"a.png,a~" in destination.get("names.csv")


def test_a_single_file_replaces_nothing_either(tmp_path: Path, destination: Store, stream: bytes) -> None:
    uri = _file(tmp_path, stream)
    for _ in range(2):
        assert decode_file(uri, Destination(destination), FileOptions()) == "my image.png"
    destination.put("my image.png", b"own")
    with pytest.raises(OccupiedError, match=r"my%20image\.png is there already|my image\.png is there"):
        decode_file(uri, Destination(destination), FileOptions())
    assert destination.get("my image.png") == b"own"
    decode_file(uri, Destination(destination, overwrite=True), FileOptions())
    assert destination.get("my image.png") != b"own"


@pytest.mark.parametrize("name", ["one.jpg", "deep/er/one.TIFF", "one.avif"])
def test_a_destination_that_names_another_kind_of_image_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="decode writes PNG files"):
        open_destination(str(tmp_path / name), StoreOptions(), one_image=True, overwrite=False)
    assert not any(tmp_path.iterdir())
    (tmp_path / name).mkdir(parents=True)  # a folder may be called that
    for place in (tmp_path / name, f"{tmp_path}/other.jpg/"):
        assert open_destination(str(place), StoreOptions(), one_image=True, overwrite=False).file is None


def test_a_destination_that_names_a_file_is_that_file(tmp_path: Path, stream: bytes) -> None:
    uri, place = _file(tmp_path, stream), tmp_path / "new" / "One.PNG"
    one = open_destination(str(place), OPTIONS, one_image=True, overwrite=False)
    assert decode_file(uri, one, FileOptions()) == "One.PNG"
    np.testing.assert_array_equal(np.asarray(Image.open(place)), decode(MODEL, stream))
    with pytest.raises(UsageError, match=r"One\.PNG names one file, and there are several images"):
        open_destination(str(place), OPTIONS, one_image=False, overwrite=False)
    folder = tmp_path / "folder.png"
    folder.mkdir()
    (folder / "x").write_bytes(b"")
    into = open_destination(str(folder), OPTIONS, one_image=True, overwrite=False)
    assert decode_file(uri, into, FileOptions()) == "my image.png"
    assert (folder / "my image.png").exists()
