"""Corpora of webdataset tars and Parquet files: what they hold is listed, encoded and carried along."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ncbatch.codec.methods import Jpeg
from ncbatch.decoding.run_reader import RunReader
from ncbatch.metrics.failures import CLASSES
from ncbatch.metrics.query import open_table
from ncbatch.metrics.schema import Row
from ncbatch.plan.inputs import Inputs
from ncbatch.plan.place import InTar, is_shard, place_of, shard_of
from ncbatch.plan.run import list_inputs
from ncbatch.plan.scan import Scan
from ncbatch.plan.spec import RunSpec, Variant
from ncbatch.report.originals import Images
from ncbatch.store import LocalStore, StoreOptions
from ncbatch.words import counted
from ncbatch.worker.unit import run_unit
from tests.workbench import ATTEMPTS, Workbench, encoded_as, make_image

IMAGES = {f"{n:09d}": make_image(64, 48 + 8 * n, seed=n) for n in range(3)}


def tar_of(files: Mapping[str, bytes]) -> bytes:
    """As webdataset writes it: with owners, times and zeros at the end."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.uname = len(data), 1_700_000_000, "bigdata"
            tar.addfile(info, io.BytesIO(data))
    return sink.getvalue()


def samples(images: Mapping[str, np.ndarray] = IMAGES) -> dict[str, bytes]:
    """What img2dataset writes."""
    files = {}
    for name, pixels in images.items():
        files[f"{name}.jpg"] = encoded_as(pixels, "JPEG", quality=95)
        files[f"{name}.txt"] = f"a caption of {name}".encode()
        files[f"{name}.json"] = json.dumps({"key": name, "url": f"http://x/{name}"}).encode()
    return files


def parquet_of(images: Mapping[str, np.ndarray] = IMAGES, group: int = 2, **columns: Any) -> bytes:
    """What Hugging Face writes."""
    rows = [{"bytes": encoded_as(pixels), "path": f"{name}.png"} for name, pixels in images.items()]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    sink = io.BytesIO()
    pq.write_table(pa.table({"image": pa.array(rows, kind), **columns}), sink, row_group_size=group)
    return sink.getvalue()


def spec_of(bench: Workbench, **fields: Any) -> RunSpec:
    return bench.spec(Variant(name="v", recipe=Jpeg(quality=90)), **fields)


def listed(bench: Workbench, **fields: Any) -> list[str]:
    listing = list_inputs(spec_of(bench, **fields), bench.corpus, StoreOptions(), bench.output)
    return [image.key for image in listing.images]


def encode(bench: Workbench, attempt: int = 0, **fields: Any) -> dict[str, Row]:
    spec = spec_of(bench, **fields)
    for unit in bench.open(spec).pending:
        run_unit(bench.workspace(spec), unit, ATTEMPTS[attempt], {})
    return bench.rows()


def test_images_in_shards_are_inputs_beside_plain_objects(bench: Workbench) -> None:
    etag = {}
    bench.add({"plain.png": make_image(seed=9), "s/0.tar": tar_of(samples()), "t.parquet": parquet_of()})
    for info in bench.corpus.list():
        etag[info.key] = info.etag
    rows = encode(bench)
    assert list(rows) == [
        "plain.png",
        *(f"s/0.tar/{name}.jpg" for name in IMAGES),
        *(f"t.parquet/0000000{n}" for n in range(3)),
    ]
    assert {row.status for row in rows.values()} == {"ok"}
    for n, (name, pixels) in enumerate(IMAGES.items()):
        in_tar, in_parquet = rows[f"s/0.tar/{name}.jpg"], rows[f"t.parquet/0000000{n}"]
        assert (in_tar.image_etag, in_parquet.image_etag) == (etag["s/0.tar"], etag["t.parquet"])
        assert in_tar.image_bytes == len(samples()[f"{name}.jpg"])
        assert in_parquet.image_bytes == len(encoded_as(pixels)), "each its own, though no footer tells"
        assert (in_tar.width, in_tar.height) == pixels.shape[1::-1]
        assert in_tar.caption == f"a caption of {name}"
        assert json.loads(str(in_tar.image_json)) == {"key": name, "url": f"http://x/{name}"}
    reader = RunReader(bench.output)
    for key in rows:
        assert reader.image(key, "v").ndim == 3
    assert bench.open(spec_of(bench)).pending == [], "the same command finds nothing new"


def test_columns_beside_the_image_are_carried_along(local: Workbench) -> None:
    labels, words = pa.array([3, 1, None]), pa.array(["cat", "dog", "ü"])
    local.add({"t.parquet": parquet_of(label=labels, text=words, vector=pa.array([[1], [2], [3]]))})
    rows = encode(local)
    assert [row.caption for row in rows.values()] == ["cat", "dog", "ü"]
    assert [row.image_json for row in rows.values()] == ['{"label": 3}', '{"label": 1}', None]


def test_other_members_of_a_sample_are_carried_along(local: Workbench) -> None:
    image = encoded_as(make_image())
    files = {
        "a.png": image,
        "a.cls": b"7",
        "b.png": image,
        "b.json": b"[1]",
        "c.png": image,
        "c.npy": b"\xff",
    }
    local.add({"0.tar": tar_of(files)})
    found = [row.image_json for row in encode(local).values()]
    assert found == ['{"cls": "7"}', '{"json": [1]}', None]


def test_plain_columns_of_bytes_are_images_and_tables_without_any_are_not(local: Workbench) -> None:
    image = encoded_as(make_image())
    for name, columns in {"jpg": {"jpg": [image], "n": [1]}, "none": {"n": [1], "hash": [b"x"]}}.items():
        sink = io.BytesIO()
        pq.write_table(pa.table(columns), sink)
        local.add({f"{name}.parquet": sink.getvalue()})
    local.add({"empty.tar": tar_of({}), "text.tar": tar_of({"a.txt": b"x"})})
    assert listed(local) == ["jpg.parquet/00000000"]
    assert encode(local)["jpg.parquet/00000000"].image_json == '{"n": 1}'


def test_patterns_choose_shards_and_images_in_them(local: Workbench) -> None:
    local.add({f"{n}.tar": tar_of(samples()) for n in range(2)} | {"a.png": encoded_as(make_image())})
    inside = [f"1.tar/{name}.jpg" for name in IMAGES]
    assert listed(local, include=("1.tar",)) == inside
    assert listed(local, include=("1.tar/*1.jpg", "*.png")) == [inside[1], "a.png"]
    assert listed(local, include=("*",), exclude=("0.tar", "*2.jpg")) == [*inside[:2], "a.png"]


class Reads(Counter[str]):
    """Counts bytes and requests to the store of a corpus, by object."""

    def __init__(self, bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.bytes: Counter[str] = Counter()
        real = LocalStore.get_range_with_info

        def counted(store: LocalStore, key: str, start: int, length: int) -> Any:
            found = real(store, key, start, length)
            if store == bench.corpus:
                self[key] += 1
                self.bytes[key] += len(found[1])
            return found

        monkeypatch.setattr(LocalStore, "get_range_with_info", counted)


def test_listing_reads_headers_and_footers_only(local: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0)
    large = {f"{n}": noise.integers(0, 256, (256, 256, 3), np.uint8) for n in range(4)}  # 200 kB each
    local.add({"0.tar": tar_of({f"{k}.png": encoded_as(v) for k, v in large.items()})})
    local.add({"1.parquet": parquet_of(large)})
    reads = Reads(local, monkeypatch)
    images = list_inputs(spec_of(local), local.corpus, StoreOptions(), local.output).images
    size = {info.key: info.size for info in local.corpus.list()}
    assert len(images) == 8
    assert reads["0.tar"] <= 6 and reads.bytes["0.tar"] < size["0.tar"] / 10
    assert reads.bytes["1.parquet"] < size["1.parquet"] / 5
    assert [(i.width, i.height) for i in images][:4] == [(256, 256)] * 4, "told by what was at hand"
    list(Scan(local.corpus, 10**8).sized(images))
    assert reads["0.tar"] <= 6, "so their headers are not read again"


def test_what_is_planned_is_not_read_again(local: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    local.add({"0.tar": tar_of(samples()), "1.parquet": parquet_of()})
    encode(local)
    reads = Reads(local, monkeypatch)
    assert len(listed(local)) == 6 and not reads
    local.add({"2.tar": tar_of(samples())})
    assert len(listed(local)) == 9 and list(reads) == ["2.tar"]


def test_small_images_of_a_shard_come_with_few_requests(
    local: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = {f"{n:04d}": IMAGES["000000000"] for n in range(40)}
    local.add({"0.tar": tar_of(samples(many)), "1.parquet": parquet_of(many, group=20)})
    spec = spec_of(local)
    run = local.open(spec)
    reads = Reads(local, monkeypatch)
    for unit in run.pending:
        run_unit(local.workspace(spec), unit, ATTEMPTS[0], {})
    assert {row.status for row in local.rows().values()} == {"ok"}
    assert reads["0.tar"] == 1 and reads["1.parquet"] <= 12


@pytest.mark.parametrize("cut", [0.3, 0.6])
def test_a_tar_that_is_cut_off_is_one_failure_and_loses_nothing_else(local: Workbench, cut: float) -> None:
    whole = tar_of(samples())
    local.add({"0.tar": whole[: int(len(whole) * cut)], "1.tar": whole, "2.png": make_image()})
    rows = encode(local)
    bad = rows["0.tar"]
    assert (bad.status, bad.error_class) == ("failed", "damaged_shard")
    assert "damaged" in str(bad.error) or "ends in the middle" in str(bad.error)
    inside = [row for key, row in rows.items() if key.startswith("0.tar/")]
    assert f"before that, {counted(len(inside), 'images')} can be read" in str(bad.error)
    others = {key for key, row in rows.items() if row.status == "ok"} - {row.image_key for row in inside}
    assert others == {"2.png", *(f"1.tar/{name}.jpg" for name in IMAGES)}
    local.add({"0.tar": whole})
    rows = encode(local, 1)
    assert all(rows[f"0.tar/{name}.jpg"].status == "ok" for name in IMAGES), "once it was copied again"


def test_a_damaged_header_in_the_middle_is_noticed(local: Workbench) -> None:
    whole = bytearray(tar_of(samples()))
    start = InTar(0)
    local.add({"0.tar": bytes(whole)})
    image = list_inputs(spec_of(local), local.corpus, StoreOptions(), local.output).images[1]
    place = place_of(str(image.place))
    assert isinstance(place, type(start))
    whole[place.start - 400] ^= 255
    local.corpus.put("0.tar", bytes(whole))
    rows = encode(local)
    assert list(rows) == ["0.tar", "0.tar/000000000.jpg"]
    assert rows["0.tar"].error_class == "damaged_shard" and rows["0.tar/000000000.jpg"].status == "ok"


@pytest.mark.parametrize("content", [b"", b"no shard at all" * 50, b"PAR1" + bytes(40) + b"PAR1"])
def test_what_is_no_shard_though_it_is_called_so(local: Workbench, content: bytes) -> None:
    local.add({"0.tar": content, "1.parquet": content, "2.png": make_image()})
    rows = encode(local)
    assert {key: row.error_class for key, row in rows.items()} == {
        "0.tar": "damaged_shard", "1.parquet": "damaged_shard", "2.png": None,
    }  # fmt: skip
    assert CLASSES["damaged_shard"].fault == "image"


def test_a_damaged_row_group_fails_its_own_images(local: Workbench) -> None:
    data = bytearray(parquet_of(group=1))
    at = pq.ParquetFile(io.BytesIO(bytes(data))).metadata.row_group(1).column(0)
    start = at.dictionary_page_offset or at.data_page_offset
    data[start : start + 30] = bytes(30)
    local.add({"0.parquet": bytes(data)})
    found = {key: row.error_class for key, row in encode(local).items()}
    assert [found[f"0.parquet/0000000{n}"] for n in (0, 2)] == [None, None]
    assert found["0.parquet/00000001"] in ("damaged_shard", "unreadable")


def test_rows_without_bytes_of_an_image_say_so(local: Workbench) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    path = "images/1.png"
    rows = [None, {"bytes": None, "path": path}, {"bytes": encoded_as(make_image()), "path": path}]
    sink = io.BytesIO()
    pq.write_table(pa.table({"image": pa.array(rows, kind)}), sink)
    local.add({"0.parquet": sink.getvalue()})
    null, elsewhere, whole = encode(local).values()
    assert null.error_class == elsewhere.error_class == "empty" and whole.status == "ok"
    assert null.error == (
        "the column image of row 0 of row group 0 holds no image (null); write the Parquet file without such "
        "rows"
    )
    assert f"holds a path only, {path!r}; write the Parquet file with the bytes" in str(elsewhere.error)


def test_a_column_of_images_may_be_dictionary_encoded(local: Workbench) -> None:
    sink = io.BytesIO()
    image = pa.array([encoded_as(make_image())] * 2, pa.binary()).dictionary_encode()
    pq.write_table(pa.table({"image": image}), sink)
    local.add({"0.parquet": sink.getvalue()})
    assert [row.status for row in encode(local).values()] == ["ok", "ok"]


def test_numbers_that_json_does_not_have_are_left_out(local: Workbench) -> None:
    """A query that takes the column apart would fail for all rows otherwise."""
    files = {"a.png": encoded_as(make_image()), "a.json": b'{"score": NaN, "at": [Infinity, 1], "n": 2}'}
    scores = pa.array([float("nan"), float("-inf"), 0.5])
    local.add({"0.tar": tar_of(files), "1.parquet": parquet_of(score=scores)})
    told = [row.image_json for row in encode(local).values()]
    assert told == ['{"score": null, "at": [null, 1], "n": 2}', None, None, '{"score": 0.5}']
    with open_table(local.output) as table:
        found = table.query("select image_json->>'$.n' as n from metrics where image_key like '0%'")
    assert found["n"].to_pylist() == ["2"]


def test_members_that_are_left_out_are_told(local: Workbench, caplog: pytest.LogCaptureFixture) -> None:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        for seed in range(2):
            data = encoded_as(make_image(seed=seed))
            info = tarfile.TarInfo("a.png")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE):
            info = tarfile.TarInfo("b.png")
            info.type, info.linkname = kind, "a.png"
            tar.addfile(info)
    local.add({"0.tar": sink.getvalue()})
    (row,) = encode(local).values()
    assert row.image_sha256 == hashlib.sha256(data).hexdigest(), (
        "the later one counts, as when it is unpacked"
    )
    assert "0.tar: left out 1 image with a name that a later one has" in caplog.text
    assert "0.tar: passed over 2 members: links or sparse files" in caplog.text


def test_a_tar_that_is_compressed_as_a_whole_says_so(local: Workbench) -> None:
    local.add({"0.tar": gzip.compress(tar_of(samples())), "1.tar": b"text" * 300})
    errors = [row.error for row in encode(local).values()]
    assert errors == [
        "the shard cannot be read: it is compressed by gzip; decompress it, so that its images can be "
        "reached one by one",
        "the shard cannot be read: it is damaged or cut off at byte 0: invalid header; copy the shard again "
        "from its source",
    ]


def test_images_that_cannot_be_read_fail_alone(local: Workbench) -> None:
    files = samples() | {"000000001.jpg": b"none", "x.png": b""}
    local.add({"0.tar": tar_of(files)})
    rows = encode(local)
    failed = {key: row.error_class for key, row in rows.items() if row.status == "failed"}
    assert failed == {"0.tar/000000001.jpg": "unreadable", "0.tar/x.png": "empty"}
    assert rows["0.tar/000000001.jpg"].caption == "a caption of 000000001"


def test_a_shard_that_changes_during_a_run(local: Workbench) -> None:
    local.add({"0.tar": tar_of(samples()), "1.parquet": parquet_of()})
    spec = spec_of(local)
    run = local.open(spec)
    swapped = {name: make_image(seed=20 + n) for n, name in enumerate(IMAGES)}
    local.add({"0.tar": tar_of(samples(swapped)), "1.parquet": parquet_of(swapped)})
    for unit in run.pending:
        run_unit(local.workspace(spec), unit, ATTEMPTS[0], {})
    assert {row.error_class for row in local.rows().values()} == {"changed"}
    assert {row.status for row in encode(local, 1).values()} == {"ok"}
    local.corpus.delete("0.tar")
    local.corpus.delete("1.parquet")
    image = run.units[0].images[0]
    from ncbatch.worker.fetch import open_image

    _, failure = open_image(Inputs(local.corpus), image, spec.variants[0])
    assert failure.error_class == "missing"  # type: ignore[union-attr]


def test_a_shard_that_was_written_anew_with_the_same_images(local: Workbench) -> None:
    local.add({"0.tar": tar_of(samples()), "1.parquet": parquet_of()})
    encode(local)
    files = samples()
    local.add(
        {"0.tar": tar_of({"000000000.txt": b"a longer caption", **files}), "1.parquet": parquet_of(group=3)}
    )
    spec = spec_of(local)
    assert local.open(spec).pending == [], "their bytes are the same"


def test_names_of_shards() -> None:
    assert [is_shard(key) for key in ("a.tar", "b/c.PARQUET", "tar", "x.tar/y", ".tar", "a.tar.gz")] == [
        True, True, False, False, False, False,
    ]  # fmt: skip
    assert shard_of("a/b.tar/c/d.jpg") == "a/b.tar" and shard_of("a/b.tar") == "a/b.tar"
    with pytest.raises(json.JSONDecodeError):
        place_of("")
    assert replace(InTar(5), start=6) == InTar(6)


def test_a_report_finds_originals_in_shards(local: Workbench) -> None:
    local.add({"0.tar": tar_of(samples()), "1.parquet": parquet_of()})
    spec = spec_of(local)
    encode(local)
    images = Images(local.output, spec, StoreOptions())
    for n, pixels in enumerate(IMAGES.values()):
        original = images.original(f"1.parquet/0000000{n}", "v")
        assert original is not None
        np.testing.assert_array_equal(original, pixels)
    assert images.original("0.tar/000000001.jpg", "v") is not None
    assert images.original("0.tar/none.jpg", "v") is None
