"""What an input says beside its pixels, from the corpus to the decoded PNG."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ncbatch import layout
from ncbatch.codec import bitstream, tail
from ncbatch.codec.methods import Jpeg
from ncbatch.decoding.destination import open_destination
from ncbatch.decoding.run_reader import RunReader
from ncbatch.models.loading import keep_model
from ncbatch.plan.spec import Variant
from ncbatch.store import StoreOptions, open_store
from ncbatch.worker.unit import probe_image, run_unit
from tests.images.profiles import rgb_profile
from tests.workbench import ATTEMPTS, CHECKPOINT, Workbench, encoded_as, make_image, make_variant, sga

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
