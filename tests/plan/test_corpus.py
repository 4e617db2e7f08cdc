"""Which objects are inputs: by listing, by pattern, by manifest."""

from __future__ import annotations

import hashlib
import io
import json
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ncbatch.errors import SpecMismatchError, UsageError
from ncbatch.plan.corpus import Listing, list_corpus, read_manifest
from ncbatch.plan.remembered import filled_in, looked_up
from ncbatch.plan.spec import RunSpec
from ncbatch.plan.units import PlannedImage
from ncbatch.store import (
    AccessDenied,
    LocalStore,
    ObjectInfo,
    ObjectNotFound,
    Store,
    StoreError,
    StoreOptions,
    open_store,
)
from ncbatch.worker.unit import run_unit
from tests.servers import S3Server
from tests.store.test_local import close
from tests.workbench import ATTEMPTS, Workbench, make_image, make_variant

OPTIONS = StoreOptions()


def _keys(listing: Listing) -> list[str]:
    return [image.key for image in listing.images]


def _fill(bench: Workbench, *keys: str) -> None:
    bench.add({key: key.encode() for key in keys})


def test_images_are_known_by_their_suffix(local: Workbench) -> None:
    _fill(
        local, "a.png", "B.JPG", "sub/c.jpeg", "d.tiff", "e.webp", "0badcafe", "x.d/f", "notes.txt", "g.ncb"
    )
    listing = list_corpus(local.corpus)
    assert _keys(listing) == ["0badcafe", "B.JPG", "a.png", "d.tiff", "e.webp", "sub/c.jpeg", "x.d/f"]
    assert listing.passed_over == 2


def test_a_listing_has_sizes_and_etags(bench: Workbench) -> None:
    _fill(bench, "a.png")
    info = bench.corpus.head("a.png")
    assert info is not None
    assert list_corpus(bench.corpus).images == [PlannedImage("a.png", info.etag, 5)]


def test_patterns_take_the_place_of_suffixes(local: Workbench) -> None:
    _fill(local, "a.png", "sub/b.png", "sub/deep/c.raw", "d.raw", "D.RAW")
    assert _keys(list_corpus(local.corpus, ["*.raw"])) == ["d.raw", "sub/deep/c.raw"]
    assert _keys(list_corpus(local.corpus, ["sub/*.png", "D*"])) == ["D.RAW", "sub/b.png"]
    assert list_corpus(local.corpus, ["*.gif"]) == Listing([], 5)


def test_an_empty_folder_has_no_inputs(bench: Workbench) -> None:
    assert list_corpus(bench.corpus) == Listing([])
    with pytest.raises(UsageError, match=r"holds no images; check the path, or name them with --include"):
        bench.open(bench.spec())
    bench.add({"notes.txt": b"text"})
    with pytest.raises(UsageError, match=r"holds no images \(passed over 1 object that is excluded, is no"):
        bench.open(bench.spec())
    assert bench.keys("run.json") == []


@pytest.mark.s3
def test_strange_names_are_listed_as_they_are(on_s3: Workbench) -> None:
    strange = {"a.png", "a.png/b", "sp ace+%25.png", "ünï/日本.jpg", "x.ncb/y.png", "k" * 200 + ".png"}
    if on_s3.create_only:  # rclone refuses these
        strange |= {"../up.png", "a//b.png", "k" * 900 + ".png"}
    else:
        strange.remove("a.png/b")
    _fill(on_s3, *strange)
    assert set(_keys(list_corpus(on_s3.corpus))) == strange


# What is left out


def test_excluded_keys_are_left_out_whatever_is_included(local: Workbench) -> None:
    _fill(local, "a.png", "sub/b.png", "sub/deep/c.raw", "d.raw")
    assert _keys(list_corpus(local.corpus, exclude=["sub/*"])) == ["a.png"]
    assert _keys(list_corpus(local.corpus, ["*.raw"], ["sub/*", "x*"])) == ["d.raw"]
    run = local.open(local.spec(exclude=("sub/*",)))
    assert [image.key for unit in run.units for image in unit.images] == ["a.png"]
    with pytest.raises(SpecMismatchError, match=r"exclude: \['sub/\*'\] there, \[\] asked for"):
        local.open(local.spec())


def test_a_run_without_exclusions_keeps_the_digest_of_before_there_were_any(local: Workbench) -> None:
    digest = RunSpec(corpus="file:///in/", variants=(make_variant(),)).digest
    spec = RunSpec(corpus="file:///in/", variants=(make_variant(),))
    content = spec.digested({"create_only", "exclude", "shard_prefix", "output_format"}, {"model"})
    assert digest == hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    assert digest != RunSpec(corpus="file:///in/", exclude=("a",), variants=(make_variant(),)).digest


def _nested(bench: Workbench, place: str) -> Workbench:
    """With its output in a folder of the corpus."""
    output = open_store(bench.corpus.uri + place, getattr(bench.corpus, "options", None), create=True)
    return replace(bench, output=output)


def test_an_output_in_the_corpus_is_no_input(bench: Workbench, caplog: pytest.LogCaptureFixture) -> None:
    """Neither before its run is planned, nor of the same run again, nor of another one."""
    _fill(bench, "a.png", "z/b.png")
    inner = _nested(bench, "out/deep/")
    inner.output.put("bitstreams/v/early.jpg", b"left by somebody")
    caplog.set_level(logging.INFO)
    for _ in range(2):
        run = inner.open(inner.spec())
        assert [image.key for unit in run.units for image in unit.images] == ["a.png", "z/b.png"]
        inner.output.put("bitstreams/v/a.png.jpg", b"its own")
    objects = len(list(inner.output.list()))
    assert f"left out {objects} objects that belong to runs, in out/deep/" in caplog.text
    other = _nested(bench, "other/")
    run = other.open(other.spec())
    assert [image.key for unit in run.units for image in unit.images] == ["a.png", "z/b.png"]
    assert list_corpus(bench.corpus).runs.keys() == {"other/", "out/deep/"}


def test_a_run_is_no_corpus(bench: Workbench) -> None:
    _fill(bench, "a.png")
    inner = _nested(bench, "out/")
    inner.open(inner.spec())
    inner.output.put("bitstreams/v/a.png.jpg", b"its own")
    assert list_corpus(inner.output).images == []
    other = Workbench(inner.output, bench.output, bench.create_only)
    with pytest.raises(UsageError, match=r"holds no images .*objects that belong to runs, in \./"):
        other.open(other.spec())


def test_a_file_that_is_called_as_ours_hides_nothing(local: Workbench) -> None:
    _fill(local, "a/x.png", "b/x.png", "c/x.png")
    local.corpus.put("a/run.json", b'{"spec": 1}')
    local.corpus.put("b/run.json", b"text \xff")
    local.corpus.put("run.json", b"[]")
    assert _keys(list_corpus(local.corpus)) == ["a/x.png", "b/x.png", "c/x.png"]


def test_a_file_that_is_called_as_ours_may_be_closed_or_gone(
    local: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fill(local, "a/x.png", "a/run.json", "b/run.json")

    def get(store: LocalStore, key: str) -> bytes:
        raise {"a/run.json": AccessDenied, "b/run.json": ObjectNotFound}[key](key)

    monkeypatch.setattr(LocalStore, "get", get)
    assert _keys(list_corpus(local.corpus)) == ["a/x.png"]


def test_a_closed_folder_is_a_warning_and_a_count(
    local: Workbench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _fill(local, "a.png", "lost+found/b.png", "sub/c.png")
    assert isinstance(local.corpus, LocalStore)
    close(monkeypatch, local.corpus, "lost+found")
    listing = list_corpus(local.corpus)
    assert (_keys(listing), listing.closed) == (["a.png", "sub/c.png"], ("lost+found/",))
    assert list(listing.notes()) == ["left out 1 folder that cannot be read: lost+found/"]
    (record,) = caplog.records
    assert "denies access to 'lost+found/'" in record.message
    caplog.clear()
    assert list_corpus(local.corpus, exclude=["lost+found/*"]).closed == ()
    assert caplog.records == []


# Manifests


def _manifest(bench: Workbench, name: str, content: bytes | pa.Table) -> str:
    if isinstance(content, pa.Table):
        sink = io.BytesIO()
        pq.write_table(content, sink)
        content = sink.getvalue()
    bench.output.put(name, content)
    return bench.output.uri + name


def _read(bench: Workbench, name: str, content: bytes | pa.Table) -> list[PlannedImage]:
    return list(read_manifest(_manifest(bench, name, content), bench.corpus, OPTIONS).images)


@pytest.mark.parametrize("form", ["parquet", "csv", "CSV"])
def test_a_complete_manifest_is_taken_at_its_word(local: Workbench, form: str) -> None:
    columns = {
        "key": ["b", "a/1.png"],
        "etag": ["e2", "e1"],
        "bytes": [7, 5],
        "width": [3, None],
        "height": [2, None],
    }
    content: bytes | pa.Table = pa.table({**columns, "label": ["x", "y"]})
    if form.lower() == "csv":
        content = b"label,key,etag,bytes,width,height\nx,b,e2,7,3,2\ny,a/1.png,e1,5,,\n"
    assert _read(local, f"m.{form}", content) == [
        PlannedImage("a/1.png", "e1", 5),
        PlannedImage("b", "e2", 7, 3, 2),
    ]


def test_what_a_manifest_leaves_open_is_looked_up(bench: Workbench) -> None:
    _fill(bench, "a.png", "b.png", "c.png")
    listed = list_corpus(bench.corpus).images
    assert _read(bench, "m.parquet", pa.table({"key": ["b.png", "a.png", "b.png"]})) == listed[:2]
    assert _read(bench, "m.csv", b"key,etag,bytes\nc.png,,\n") == listed[2:]


def test_the_texts_of_a_manifest_may_be_more_than_2_gib_together(local: Workbench) -> None:
    """Offsets of `string` end there: sorting 34 million etags of 64 characters ended in an overflow."""
    local.add({"a.png": make_image(), "b.png": make_image()})
    table = pa.table({"key": ["a.png", "b.png"], "etag": ["e1", None]})
    uri = _manifest(local, "m.parquet", table)
    local.open(local.spec(manifest=uri))
    seen = list[pa.Table]()

    def known(rows: pa.Table) -> pa.Table:
        found = looked_up(local.output, rows["key"])
        assert found is not None, "the run is not finished"
        seen.extend([rows, found])
        return filled_in(rows, local.output)

    images = read_manifest(uri, local.corpus, OPTIONS, known).images
    assert [image.etag for image in images] == [image.etag for image in list_corpus(local.corpus).images]
    texts = [field for rows in seen for field in rows.schema if not pa.types.is_integer(field.type)]
    assert [(field.name, field.type) for field in texts] == [
        ("key", pa.large_string()),
        ("etag", pa.large_string()),
        ("etag", pa.large_string()),
    ]


def test_keys_that_look_like_numbers_or_dates_stay_text(local: Workbench) -> None:
    _fill(local, "0001", "1e3", "2024-01-01", "true", "NA")
    content = b"key\n0001\n1e3\n2024-01-01\ntrue\nNA\n"
    assert [image.key for image in _read(local, "m.csv", content)] == [
        "0001",
        "1e3",
        "2024-01-01",
        "NA",
        "true",
    ]
    assert _read(local, "n.csv", b"key,etag,bytes\n0001,0007,5\n") == [PlannedImage("0001", "0007", 5)]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.csv", b"", r"m\.csv is neither Parquet nor CSV with a header"),
        ("m.csv", b"key,bytes\na,many\n", r"m\.csv is neither .*many"),
        ("m.csv", b"name,size\na,1\n", r"m\.csv has no column `key`; it has name, size"),
        ("m.csv", b"key,etag\n,1\n", r"m\.csv has a row without a key"),
        ("m.parquet", b"key\na\n", r"m\.parquet is neither Parquet nor CSV"),
        ("m.parquet", pa.table({"key": ["gone.png"]}), r"names 'gone.png', which .*corpus/ does not have"),
        ("m.parquet", pa.table({"key": [None]}, pa.schema([("key", pa.string())])), "a row without a key"),
        (
            "m.parquet",
            pa.table({"key": ["a"], "bytes": ["five"]}),
            "a column of the manifest .* wrong type.*five",
        ),
        ("m.parquet", pa.table({"key": [["a"]]}), "a column of the manifest .* is of the wrong type"),
    ],
)
def test_what_is_wrong_with_a_manifest_is_said(
    local: Workbench, name: str, content: bytes | pa.Table, message: str
) -> None:
    _fill(local, "a")
    with pytest.raises(UsageError, match=message):
        _read(local, name, content)


def test_a_damaged_parquet_manifest_is_said_to_be(local: Workbench) -> None:
    uri = _manifest(local, "m.parquet", pa.table({"key": [f"{n}" for n in range(1000)]}))
    data = local.output.get("m.parquet")
    local.output.put("m.parquet", data[:8] + bytes(255 - b for b in data[8:500]) + data[500:])
    with pytest.raises(UsageError, match=r"m\.parquet is neither Parquet"):
        read_manifest(uri, local.corpus, OPTIONS)


def test_a_missing_manifest_is_said_to_be(local: Workbench) -> None:
    _fill(local, "a.png")
    with pytest.raises(StoreError, match=r"m\.csv"):
        read_manifest(local.corpus.uri + "m.csv", local.corpus, OPTIONS)


def test_a_manifest_may_have_a_name_that_a_uri_escapes(local: Workbench) -> None:
    _fill(local, "a.png")
    local.output.put("my manifest%.csv", b"key\na.png\n")
    uri = local.output.uri + "my%20manifest%25.csv"
    assert _keys(read_manifest(uri, local.corpus, OPTIONS)) == ["a.png"]


def test_a_manifest_decides_what_a_run_encodes(local: Workbench) -> None:
    _fill(local, "a.png", "b.png", "c.png")
    run = local.open(local.spec(manifest=_manifest(local, "m.csv", b"key\nc.png\na.png\n")))
    assert [image.key for unit in run.units for image in unit.images] == ["a.png", "c.png"]


def test_what_was_looked_up_is_not_asked_for_again_until_the_run_is_done(
    local: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    local.add({f"{n}.png": make_image(seed=n) for n in range(3)})
    spec = local.spec(manifest=_manifest(local, "m.csv", b"key\n0.png\n1.png\n2.png\n"))
    asked: list[str] = []
    head = type(local.corpus).head

    def counted(store: Store, key: str) -> ObjectInfo | None:
        asked.append(key)
        return head(store, key)

    units = local.open(spec, pixels_per_unit=1).units
    monkeypatch.setattr(type(local.corpus), "head", counted)

    def looked_up() -> list[str]:
        asked.clear()
        run = local.open(spec, pixels_per_unit=1)
        assert sum(len(unit.images) for unit in run.units) == 3
        return [key for key in asked if key.endswith(".png") and "/" not in key]

    assert looked_up() == []
    run_unit(local.workspace(spec), units[0], ATTEMPTS[0], {})
    local.add({"1.png": make_image(80, 64, seed=9)})
    assert looked_up() == [], "a session that goes on takes what was planned"
    for unit in units[1:]:
        run_unit(local.workspace(spec), unit, ATTEMPTS[0], {})
    assert local.rows()["1.png"].error_class == "changed"
    assert sorted(looked_up()) == ["0.png", "1.png", "2.png"], "a run that is done is there to look again"
    (pending,) = local.open(spec).pending
    assert [image.key for image in pending.images] == ["1.png"]
    assert looked_up() == ["1.png"], "and so is what was not as it was planned"


@pytest.mark.s3
def test_a_large_corpus_is_listed_by_ranges_of_folders_and_is_the_same(
    moto_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    moto_server.use(monkeypatch)
    store = open_store(f"s3://{moto_server.make_bucket()}/deep/in/", OPTIONS)
    keys = [f"only/{folder}/{n:03d}.png" for folder in ("a", "a b", "a!", "b", "ü") for n in range(230)]
    keys += ["only/a/", "only/a.png", "only/zz.png", "only/b/run.json", "only/b/notes.txt"]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda key: store.put(key, b"x" if "run.json" not in key else b"{}"), keys))
    assert [r.after for r in store.ranges(32)] == ["", "only/a!/", "only/a/", "only/b/", "only/ü/"]
    for most in (32, 3, 1):
        ranges = store.ranges(most)
        assert len(ranges) <= most
        within = [info for part in ranges for info in store.list(within=part)]
        assert within == list(store.list()), "each once, in order"
    found = list_corpus(store)
    assert _keys(found) == sorted((key for key in keys if key.endswith(".png")), key=str.encode)
    assert found.passed_over == len(keys) - len(found.images)
