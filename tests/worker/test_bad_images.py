"""Whatever the inputs are: one row each, and a message a person can act on."""

from __future__ import annotations

import importlib.util
import io
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from ncbatch import layout
from ncbatch.metrics.failures import Failure
from ncbatch.metrics.schema import Row
from ncbatch.store import LocalStore, ObjectInfo, StoreError, open_store
from ncbatch.worker.unit import run_unit
from tests.workbench import (
    ATTEMPTS,
    Workbench,
    assert_one_row_each,
    encoded_as,
    make_image,
    make_variant,
    sga,
)


def _png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


def _animation() -> bytes:
    frames = [Image.fromarray(make_image(seed=n)).quantize(16) for n in range(3)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def _with_alpha(opacity: int) -> bytes:
    alpha = np.full((64, 64, 1), 255, np.uint8)
    alpha[:32] = opacity
    return encoded_as(np.concatenate([make_image(), alpha], axis=2))


def _cmyk() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(make_image()).convert("CMYK").save(buffer, "JPEG")
    return buffer.getvalue()


_JXL = (
    ("unreadable", "JPEG XL file cannot be decoded")
    if importlib.util.find_spec("pillow_jxl")
    else ("unsupported", "install the package pillow-jxl-plugin")
)


def _heic() -> bytes:
    pillow_heif.register_heif_opener()
    return encoded_as(make_image(67, 65), "HEIF")


BAD = {
    "new.jxl": (b"\xff\x0a" + bytes(20), *_JXL),
    "zero.png": (b"", "empty", "no bytes; upload the file again"),
    "text.png": (b"not an image\n" * 10, "unreadable", "no PNG, JPEG, WebP, TIFF, BMP or GIF file"),
    "cut.jpg": (encoded_as(make_image(128, 128), "JPEG")[:-700], "truncated", "copy the file again"),
    "bomb.png": (_png_header(100_000, 100_000), "too_large", "100000 x 100000 pixels"),
    "wide.png": (_png_header(60_000, 60_000), "too_large", "the limit is 100000000 in all"),
    "alpha.png": (_with_alpha(100), "transparent", "--alpha white or --alpha black"),
}
GOOD = {
    "animated.gif": (_animation(), (64, 64)),
    "cmyk.jpg": (_cmyk(), (64, 64)),
    "opaque.png": (_with_alpha(255), (64, 64)),
    "dot.png": (encoded_as(make_image(1, 1)), (1, 1)),
    "line.png": (encoded_as(make_image(1, 1000)), (1, 1000)),
    "odd.webp": (encoded_as(make_image(67, 65), "WEBP"), (67, 65)),
    "new.avif": (encoded_as(make_image(67, 65), "AVIF"), (67, 65)),
    "new.heic": (_heic(), (67, 65)),
    "new.jp2": (encoded_as(make_image(67, 65), "JPEG2000"), (67, 65)),
}


def test_every_image_gets_one_row(bench: Workbench) -> None:
    bench.add({key: content for key, (content, *_) in BAD.items()})
    bench.add({key: content for key, (content, _) in GOOD.items()})
    rows = bench.encode(bench.spec())
    assert rows.keys() == BAD.keys() | GOOD.keys()
    for key, (_, error_class, message) in BAD.items():
        row = rows[key]
        assert (row.status, row.error_class) == ("failed", error_class), key
        assert row.error is not None and message in row.error, key
        assert (row.bitstream_key, row.bpp, row.width) == (None, None, None)
    for key, (_, size) in GOOD.items():
        assert (rows[key].width, rows[key].height) == size, rows[key].error
        bench.bitstream(rows[key])
    assert len(bench.keys(layout.BITSTREAMS_PREFIX)) == len(GOOD)


@pytest.mark.parametrize("key", GOOD)
def test_every_shape_can_be_refined(local: Workbench, key: str) -> None:
    local.add({key: GOOD[key][0]})
    row = local.encode(local.spec(make_variant(sga(2))))[key]
    assert (row.width, row.height) == GOOD[key][1]
    local.bitstream(row)


def test_rows_say_what_their_bytes_are(local: Workbench) -> None:
    pixels = make_image(90, 70)
    local.add({"a.png": pixels})
    row = local.encode(local.spec(make_variant(sga(20, seed=3))))["a.png"]
    assert row.bpp is not None and row.mse is not None and row.rd_loss is not None
    assert row.bits_y is not None and row.bits_z is not None and row.information_bpp is not None
    assert row.amortized_rd_loss is not None
    assert row.mse == pytest.approx(local.mse(row, pixels))
    assert row.psnr == pytest.approx(10 * np.log10(255**2 / row.mse))
    assert row.rd_loss == pytest.approx(row.bpp + 0.01 * row.mse)
    assert row.information_bpp == pytest.approx((row.bits_y + row.bits_z) / (90 * 70))
    assert row.information_bpp < row.bpp < row.information_bpp + 60 * 8 / (90 * 70)
    assert row.rd_loss < row.amortized_rd_loss
    assert (row.method, row.steps, row.seed, row.lmbda) == ("sga", 20, 3, 0.01)
    assert (row.model, row.model_digest) == ("base-0.010", local.spec().variants[0].model_digest)
    assert (row.generation, row.adopted, row.batch_size, row.attempt) == (0, False, 1, ATTEMPTS[0])
    assert row.started_at is not None and row.finished_at is not None
    assert row.started_at < row.finished_at


@pytest.mark.parametrize("alpha", ["white", "black"])
def test_real_alpha_is_composited_where_that_was_asked_for(local: Workbench, alpha: str) -> None:
    local.add({"alpha.png": _with_alpha(0)})
    row = local.encode(local.spec(make_variant(alpha=alpha)))["alpha.png"]
    upper = np.full((32, 64, 3), 255 if alpha == "white" else 0, np.uint8)
    behind = np.concatenate([upper, make_image()[32:]])
    assert row.mse == pytest.approx(local.mse(row, behind))
    assert row.psnr is not None and row.psnr > 25


def test_animations_become_failed_rows_where_that_was_asked_for(local: Workbench) -> None:
    local.add({"animated.gif": _animation(), "still.png": make_image()})
    rows = local.encode(local.spec(make_variant(frames="refuse")))
    assert rows["animated.gif"].error_class == "several_frames" and rows["still.png"].status == "ok"
    assert rows["animated.gif"].error == (
        "the GIF file holds 3 frames; take its frames apart, or encode the first one with --frames first"
    )


def test_a_pixel_limit_is_the_variants(local: Workbench) -> None:
    local.add({"a.png": make_image(64, 65), "b.png": make_image(64, 64)})
    rows = local.encode(local.spec(make_variant(max_pixels=64 * 64)))
    assert (rows["a.png"].error_class, rows["b.png"].status) == ("too_large", "ok")


def test_inputs_that_changed_or_went_since_the_plan(bench: Workbench) -> None:
    bench.add({f"{name}.png": make_image(seed=n) for n, name in enumerate(("kept", "gone", "changed"))})
    spec = bench.spec()
    unit = bench.unit(spec)
    bench.corpus.delete("gone.png")
    bench.add({"changed.png": make_image(70, 70, seed=9)})
    run_unit(bench.workspace(spec), unit, ATTEMPTS[0], {})
    rows = bench.rows()
    assert rows["kept.png"].status == "ok"
    assert (rows["gone.png"].error_class, rows["changed.png"].error_class) == ("missing", "changed")
    assert rows["changed.png"].error is not None and "run the same command again" in rows["changed.png"].error
    _the_same_command_again(bench, rows)


def _the_same_command_again(bench: Workbench, before: dict[str, Row]) -> None:
    run = bench.open(bench.spec())
    (unit,) = run.pending
    assert ([image.key for image in unit.images], unit.generation) == (["changed.png"], 1)
    run_unit(bench.workspace(bench.spec()), unit, ATTEMPTS[1], {})
    rows = bench.rows()
    assert (rows["changed.png"].status, rows["changed.png"].generation) == ("ok", 1)
    assert rows["changed.png"].bitstream_key is not None
    assert rows["changed.png"].bitstream_key.startswith("bitstreams/v/changed.png.g1.")
    bench.bitstream(rows["changed.png"])
    assert {**rows, "changed.png": None} == {**before, "changed.png": None}


def test_a_key_that_the_store_does_not_take_fails_alone(local: Workbench) -> None:
    local.add({"a.png": make_image()})
    local.output.put("m.csv", b"key,etag,bytes\n../up.png,e,1\na.png,,\n")
    spec = local.spec(manifest=local.output.uri + "m.csv")
    rows = local.encode(spec)
    assert (rows["a.png"].status, rows["../up.png"].error_class) == ("ok", "refused")
    assert rows["../up.png"].error is not None and "rename the object" in rows["../up.png"].error


def test_a_corpus_that_is_gone_is_no_fault_of_the_images(local: Workbench, tmp_path: Path) -> None:
    """Such as a network folder that one worker does not have."""
    local.add({"a.png": make_image()})
    folder = tmp_path / "corpus"
    mounted = replace(local, corpus=open_store(str(folder)))
    spec = mounted.spec()
    unit = mounted.unit(spec)
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="does not exist"):
        run_unit(mounted.workspace(spec), unit, ATTEMPTS[0], {})
    assert local.keys("units/") == []


def test_poisoned_images_are_not_touched(local: Workbench) -> None:
    local.add({"a.png": make_image(), "killer.png": make_image(seed=1)})
    spec = local.spec()
    unit = local.unit(spec)
    local.corpus.delete("killer.png")  # touching it would say `missing`
    result = run_unit(
        local.workspace(spec),
        unit,
        ATTEMPTS[0],
        {"killer.png": Failure("process_killed", "lost on a; see its log")},
    )
    rows = local.rows()
    assert_one_row_each(local.commit(unit), unit)
    assert (result.ok, result.failed) == (1, 1)
    assert rows["killer.png"].error_class == "process_killed"
    assert rows["killer.png"].error == "lost on a; see its log"


def test_an_object_of_too_many_bytes_is_not_fetched(
    local: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large = encoded_as(make_image()), encoded_as(make_image(seed=1)) + bytes(10_000)
    local.add({"a.png": small, "backup": large})
    spec = local.spec(make_variant(max_bytes=len(large) - 1))
    fetched = []
    get = LocalStore.get_with_info

    def noted(store: LocalStore, key: str) -> tuple[ObjectInfo, bytes]:
        fetched.append(key)
        return get(store, key)

    monkeypatch.setattr(LocalStore, "get_with_info", noted)
    rows = local.encode(spec)
    assert (rows["a.png"].status, rows["backup"].error_class) == ("ok", "too_many_bytes")
    assert "backup" not in fetched
    told = str(rows["backup"].error)
    assert f"{len(large):,} bytes, and the limit is {len(large) - 1:,}" in told and "--max-bytes" in told
