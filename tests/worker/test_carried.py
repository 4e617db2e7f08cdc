"""What an input says beside its pixels, from the corpus to the decoded PNG."""

from __future__ import annotations

import io
import tarfile
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ncbatch import layout
from ncbatch.codec import bitstream, tail
from ncbatch.codec.decode import decode
from ncbatch.codec.errors import BitstreamError
from ncbatch.codec.methods import Jpeg
from ncbatch.decoding.destination import Destination, open_destination
from ncbatch.decoding.run_reader import RunReader
from ncbatch.metrics.table import read_table
from ncbatch.models.loading import keep_model
from ncbatch.plan.spec import Variant
from ncbatch.store import StoreOptions, open_store
from ncbatch.worker.unit import probe_image, run_unit
from tests.images.profiles import rgb_profile
from tests.workbench import ATTEMPTS, CHECKPOINT, MODEL, Workbench, encoded_as, make_image, make_variant, sga

PICTURE = make_image(40, 24, seed=4)
WIDE = rgb_profile(1.8)


def photograph() -> bytes:
    """As a phone stores it that is held upright."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    stored = np.ascontiguousarray(np.rot90(PICTURE, 1))
    return encoded_as(stored, "JPEG", quality=95, exif=exif, icc_profile=WIDE)


def test_a_run_carries_it_to_the_decoded_png(local: Workbench, tmp_path: Any) -> None:
    local.add({"a.jpg": photograph(), "b.png": PICTURE})
    keep_model(local.output, CHECKPOINT)
    rows = local.encode(local.spec(make_variant(color="keep", metadata="keep")))
    assert rows["a.jpg"].dropped is None and rows["b.png"].dropped is None
    carrying, plain = local.bitstream(rows["a.jpg"]), local.bitstream(rows["b.png"])
    assert (carrying[3], plain[3]) == (3, 2) and rows["b.png"].tail_bytes == 0
    carried = bitstream.parse(carrying, max_pixels=10**4).carried
    assert carried.icc == WIDE and b"a camera" in carried.exif
    assert rows["a.jpg"].tail_bytes == len(tail.serialise(carried))
    decoded = open_destination(str(tmp_path / "png"), StoreOptions(), one_image=False, overwrite=False)
    assert [finding.problem for finding in RunReader(local.output).decode_into(decoded)] == [None, None]
    png = Image.open(io.BytesIO(open_store(str(tmp_path / "png")).get("a.png")))
    assert png.size == (40, 24) and png.info["icc_profile"] == WIDE
    assert png.getexif()[0x010F] == "a camera" and png.getexif()[0x0112] == 1


def test_a_row_says_what_was_dropped(local: Workbench) -> None:
    local.add({"a.jpg": photograph()})
    row = local.encode(local.spec(make_variant(color="convert", metadata="strip")))["a.jpg"]
    assert row.dropped == "exif" and local.bitstream(row)[3] == 2


def test_codecs_that_carry_nothing_drop_it(local: Workbench) -> None:
    local.add({"a.jpg": photograph()})
    jpeg = Variant(name="v", recipe=Jpeg(quality=60), color="convert", metadata="strip")
    assert local.encode(local.spec(jpeg))["a.jpg"].dropped == "exif"


@pytest.mark.parametrize("metadata", ["keep", "strip"])
def test_what_an_attempt_left_is_adopted_with_what_it_carries(bench: Workbench, metadata: str) -> None:
    bench.add({"a.jpg": photograph()})
    variant = make_variant(sga(2), color="keep", metadata=metadata)
    spec = bench.spec(variant)
    unit = bench.unit(spec)
    probe_image(bench.workspace(spec), unit, ATTEMPTS[0], "a.jpg")
    run_unit(bench.workspace(spec), unit, ATTEMPTS[1], {})
    row = bench.rows()["a.jpg"]
    assert row.adopted
    data = bench.bitstream(row)
    assert bitstream.parse(data, max_pixels=10**4).carried.icc == WIDE
    assert row.bpp == 8 * len(data) / (40 * 24) and row.mse is not None
    assert row.rd_loss == pytest.approx(row.bpp + 0.01 * row.mse, rel=1e-6)
    assert (row.tail_bytes or 0) > 0


def test_a_file_that_carries_something_else_is_not_adopted(local: Workbench) -> None:
    local.add({"a.jpg": photograph()})
    spec = local.spec(make_variant(color="keep", metadata="keep"))
    unit = local.unit(spec)
    probe_image(local.workspace(spec), unit, ATTEMPTS[0], "a.jpg")
    (key,) = local.keys(layout.BITSTREAMS_PREFIX)
    stream = bitstream.parse(local.output.get(key), max_pixels=10**4)
    other = bitstream.Bitstream(stream.method, stream.model_digest, 40, 24, stream.payload)
    local.output.put(key, bitstream.serialise(other))
    run_unit(local.workspace(spec), unit, ATTEMPTS[1], {})
    row = local.rows()["a.jpg"]
    assert not row.adopted and row.bitstream_key != key and local.bitstream(row)[3] == 3


def cut_out() -> np.ndarray:
    """A disc in front of nothing, with a soft edge: uint8[height, width, 4]."""
    y, x = np.mgrid[0:24, 0:40]
    opacity = (255 * (11 - np.hypot(x - 20, y - 12)).clip(0, 1)).astype(np.uint8)
    return np.dstack([PICTURE, opacity])


@pytest.mark.parametrize("output_format", ["files", "tar"])
def test_transparency_comes_back_in_the_decoded_png(
    local: Workbench, tmp_path: Any, output_format: str
) -> None:
    local.add({"a.png": encoded_as(cut_out()), "b.png": PICTURE})
    keep_model(local.output, CHECKPOINT)
    rows = local.encode(local.spec(make_variant(alpha="keep"), output_format=output_format))
    assert rows["a.png"].dropped is None and rows["b.png"].tail_bytes == 0
    row = rows["a.png"]
    assert row.tail_bytes and row.bpp == 8 * (row.length or 0) / (40 * 24)
    reader = RunReader(local.output)
    assert [finding.problem for finding in reader.verify()] == [None, None]
    found = reader.decode_file(next(r for r in reader.rows if r["image_key"] == "a.png"))[0]
    np.testing.assert_array_equal(found[..., 3], cut_out()[..., 3])
    assert np.array_equal(reader.image("a.png", "v"), found[..., :3])
    uri = str(tmp_path / "png")
    tar_bytes = 1 << 20 if output_format == "tar" else None
    decoded = Destination(open_store(uri, create=True), tar_bytes=tar_bytes)
    assert [finding.problem for finding in reader.decode_into(decoded)] == [None, None]
    if output_format == "tar":
        with tarfile.open(tmp_path / "png" / "images-00000.tar") as tar:
            png = Image.open(io.BytesIO(tar.extractfile("a.png").read()))  # type: ignore[union-attr]
    else:
        png = Image.open(tmp_path / "png" / "a.png")
    assert png.mode == "RGBA" and np.array_equal(np.asarray(png), found)


def test_a_damaged_plane_is_found(local: Workbench) -> None:
    local.add({"a.png": encoded_as(cut_out())})
    keep_model(local.output, CHECKPOINT)
    row = local.encode(local.spec(make_variant(alpha="keep")))["a.png"]
    stream = bitstream.parse(local.bitstream(row), max_pixels=10**4)
    other = replace(stream, carried=replace(stream.carried, alpha=b"no plane"))
    with pytest.raises(BitstreamError, match=r"the alpha plane is damaged.*; the file is damaged"):
        decode(MODEL, bitstream.serialise(other))


def test_hidden_colours_cost_less_than_what_lies_behind(local: Workbench) -> None:
    local.add({"a.png": encoded_as(cut_out())})
    variants = [make_variant(name=rule, alpha=rule) for rule in ("keep", "white")]
    spec = local.spec(*variants)
    for unit in local.open(spec).units:
        run_unit(local.workspace(spec), unit, ATTEMPTS[0], {})
    rows = {row["variant"]: row for row in read_table(local.output).to_pylist()}
    assert rows["keep"]["bits_y"] < rows["white"]["bits_y"] and rows["white"]["dropped"] == "alpha"
