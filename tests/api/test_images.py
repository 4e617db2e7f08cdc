"""The Python API for single images. What the codec makes of them is tested in tests/codec."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ncbatch
from ncbatch.codec import bitstream
from ncbatch.codec.encode import encode as encode_batch
from ncbatch.codec.methods import Sga
from ncbatch.models.loading import keep_model
from ncbatch.selftest import golden
from ncbatch.store import open_store
from tests.images.profiles import rgb_profile
from tests.workbench import AMORTIZED, MODEL, encoded_as, make_image

TINY = Path(str(golden.TINY / "base.safetensors"))
PIXELS = make_image(80, 48, seed=1)


def amortized() -> bytes:
    return encode_batch(MODEL, [PIXELS], AMORTIZED)[0].outcome.data


def test_an_image_may_be_an_array_a_tensor_a_pil_image_or_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded_as(PIXELS))
    for image in (PIXELS, PIXELS[::-1][::-1], Image.fromarray(PIXELS), path, str(path)):
        assert ncbatch.encode(image, method="amortized") == amortized(), type(image)
    tensor = torch.from_numpy(PIXELS)
    assert ncbatch.encode(tensor, method="amortized") == amortized()  # type: ignore[arg-type]


def test_a_file_brings_its_metadata_along_and_a_pil_image_its_profile(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    path, profile = tmp_path / "a.png", rgb_profile(1.8)
    path.write_bytes(encoded_as(PIXELS, exif=exif, icc_profile=profile))
    kept = bitstream.parse(ncbatch.encode(path, method="amortized", color="keep"), max_pixels=10**4)
    assert kept.carried.icc == profile and b"a camera" in kept.carried.exif
    assert ncbatch.encode(path, method="amortized", color="ignore", metadata="strip") == amortized()
    converted = ncbatch.encode(path, method="amortized", metadata="strip")
    image = Image.open(path)
    assert converted != amortized() and ncbatch.encode(image, method="amortized") == converted
    assert ncbatch.encode(image, method="amortized", color="ignore") == amortized()
    with pytest.raises(ncbatch.NcbatchError, match="color: 'srgb' is not one of convert, keep, ignore"):
        ncbatch.encode(path, color="srgb")  # type: ignore[arg-type]


def test_settings_reach_the_recipe() -> None:
    recipe = Sga(lmbda=0.01, steps=4, seed=3)
    expected = encode_batch(MODEL, [PIXELS], recipe)[0].outcome.data
    assert ncbatch.encode(PIXELS, method="sga", steps=4, seed=3) == expected
    assert ncbatch.encode(PIXELS, MODEL, method="sga", steps=4, seed=3) == expected
    assert ncbatch.encode(PIXELS, "base-0.010", method="sga", steps=4, seed=3) == expected


def test_the_model_is_the_one_nearest_to_lmbda_and_lmbda_is_the_models_own() -> None:
    data = ncbatch.encode(PIXELS, method="amortized", lmbda=0.045)
    made_by = bitstream.parse(data, max_pixels=10**6).model_digest
    assert ncbatch.load_model("base-0.040").digest.startswith(made_by)
    assert len(data) > len(ncbatch.encode(PIXELS, ncbatch.load_model("base-0.001"), method="amortized"))


def test_transparent_pixels_are_refused_unless_it_is_said_what_lies_behind() -> None:
    opacity = np.full((*PIXELS.shape[:2], 1), 255, np.uint8)
    opacity[:8] = 0
    image = Image.fromarray(np.concatenate([PIXELS, opacity], axis=2))
    with pytest.raises(ncbatch.NcbatchError, match="transparent"):
        ncbatch.encode(image, method="amortized")
    decoded = ncbatch.decode(ncbatch.encode(image, method="amortized", alpha="white"))
    assert decoded[:6].mean() > 230


def test_an_animation_is_its_first_frame_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(PIXELS).save(path, save_all=True, append_images=[Image.fromarray(255 - PIXELS)])
    assert ncbatch.encode(path, method="amortized") == amortized()
    with pytest.raises(ncbatch.NcbatchError, match='holds 2 frames; give frames="first"'):
        ncbatch.encode(path, method="amortized", frames="refuse")


def test_transparency_is_kept_without_loss(tmp_path: Path) -> None:
    plane = (np.arange(PIXELS.shape[1]) * 3).clip(0, 255).astype(np.uint8)
    rgba = np.dstack([PIXELS, np.broadcast_to(plane, PIXELS.shape[:2])])
    path = tmp_path / "a.png"
    path.write_bytes(encoded_as(rgba))
    data = ncbatch.encode(rgba, method="amortized", alpha="keep")
    for image in (Image.fromarray(rgba), path):
        assert ncbatch.encode(image, method="amortized", alpha="keep") == data
    decoded = ncbatch.decode(data)
    assert decoded.shape == rgba.shape and np.array_equal(decoded[..., 3], rgba[..., 3])
    assert np.square(decoded[..., :3].astype(float) - PIXELS)[:, 1:].mean() < 100
    opaque = np.dstack([PIXELS, np.full(PIXELS.shape[:2], 255, np.uint8)])
    assert ncbatch.encode(opaque, method="amortized", alpha="keep") == amortized()


def test_decoding_takes_bytes_or_a_file_and_finds_the_model(tmp_path: Path) -> None:
    data = amortized()
    path = tmp_path / "a.ncb"
    path.write_bytes(data)
    image = ncbatch.decode(data)
    assert image.dtype == np.uint8
    assert image.shape == PIXELS.shape
    assert np.square(image.astype(float) - PIXELS).mean() < 100
    for given in (bytearray(data), memoryview(data), path, str(path)):
        assert np.array_equal(ncbatch.decode(given), image)
    assert np.array_equal(ncbatch.decode(data, "base-0.010"), image)


def test_a_model_that_is_not_built_in_is_found_in_the_run_around_a_file(tmp_path: Path) -> None:
    model = ncbatch.load_model(TINY)
    data = ncbatch.encode(PIXELS, model, method="amortized")
    with pytest.raises(ncbatch.NcbatchError, match="no built-in model has the digest"):
        ncbatch.decode(data)
    image = ncbatch.decode(data, model)
    assert np.array_equal(ncbatch.decode(data, TINY), image)

    from ncbatch.codec.model import checkpoint

    keep_model(open_store(str(tmp_path)), checkpoint.parse(TINY.read_bytes(), "tiny"))
    path = tmp_path / "bitstreams" / "v" / "a.png.ncb"
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    assert np.array_equal(ncbatch.decode(path), image)


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (np.zeros((4, 4), np.uint8), ValueError, r"not uint8\[4, 4\]"),
        (np.zeros((3, 40, 40), np.uint8), ValueError, r"permute\(1, 2, 0\)"),
        (np.zeros((4, 4, 3), np.float32), ValueError, "not float32"),
        (np.zeros((0, 4, 3), np.uint8), ValueError, r"\[0, 4, 3\]"),
        (np.zeros((1, 65536, 3), np.uint8), ValueError, "65535 pixels a side"),
        (b"\x89PNG", TypeError, "open the bytes of a file with PIL"),
        (object(), TypeError, "not an image but object"),
        (Image.new("F", (4, 4)), ncbatch.NcbatchError, "mode F"),
        ("nowhere.png", ncbatch.NcbatchError, "there is no file nowhere.png"),
    ],
)
def test_what_is_no_image(image: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ncbatch.encode(image, method="amortized")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"preset": "quick"}, "^preset: there is no 'quick'"),
        ({"method": "sgaa"}, "^method: there is no 'sgaa'"),
        ({"steps": -1}, "^steps: -1 is not at least 1"),
        ({"method": "sga+bits-back"}, "does not make .ncb files"),
        ({"method": "jpeg"}, "^method: 'jpeg' is a codec of its own, and makes no .ncb files$"),
        ({"alpha": "pink"}, "^alpha: 'pink' is not one of refuse, keep, white, black"),
        ({"model": "base-0.011"}, "there is no model 'base-0.011'"),
        ({"model": "bits-back-0.010", "method": "amortized"}, "codes packs"),
    ],
)
def test_what_is_no_setting(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ncbatch.NcbatchError, match=message):
        ncbatch.encode(PIXELS, **settings)  # type: ignore[arg-type]


def test_transparency_and_limits_are_told_as_arguments() -> None:
    alpha = np.full((8, 8, 1), 100, np.uint8)
    image = Image.fromarray(np.concatenate([PIXELS[:8, :8], alpha], axis=2))
    with pytest.raises(
        ncbatch.NcbatchError, match='give alpha="keep", or alpha="white" or "black"'
    ) as caught:
        ncbatch.encode(image, method="amortized")
    assert "--" not in str(caught.value)
    with pytest.raises(ncbatch.NcbatchError, match="raise it with max_pixels") as caught:
        ncbatch.decode(amortized(), max_pixels=100)
    assert "--" not in str(caught.value)


def test_a_pack_is_told_to_be_one(tmp_path: Path) -> None:
    pack = b"NCP" + bytes(100)
    (tmp_path / "a.ncbp").write_bytes(pack)
    for given in (pack, tmp_path / "a.ncbp"):
        with pytest.raises(ncbatch.NcbatchError, match=r"but a pack, \.ncbp, .* `ncbatch decode` takes it"):
            ncbatch.decode(given, "base-0.010")


@pytest.mark.parametrize("name", [None, 5, b"base-0.010"])
def test_what_names_no_model(name: object) -> None:
    with pytest.raises(TypeError, match=f"name: not a path or URI but {type(name).__name__}; give text"):
        ncbatch.load_model(name)  # type: ignore[arg-type]


def test_a_device_that_is_not_here() -> None:
    with pytest.raises(ncbatch.NcbatchError, match="device: 'tpu' cannot be used here"):
        ncbatch.load_model("base-0.010", device="tpu")


def test_what_is_neither_bytes_nor_a_path() -> None:
    with pytest.raises(TypeError, match="not the bytes of a file but int"):
        ncbatch.decode(5)  # type: ignore[arg-type]


def test_damaged_bytes_are_refused() -> None:
    data = amortized()
    for damaged in (data[:-1], b"", data[:20] + b"\0" + data[21:]):
        with pytest.raises(ncbatch.NcbatchError):
            ncbatch.decode(damaged)
    with pytest.raises(ncbatch.NcbatchError, match="more than the limit"):
        ncbatch.decode(data, max_pixels=100)


@pytest.mark.filterwarnings("ignore:the target of .* bytes was not met")  # so few steps are not exact
def test_a_target_takes_the_place_of_lmbda() -> None:
    image = make_image(128, 96, seed=1)
    large, small = (ncbatch.encode(image, MODEL, steps=10, target_bytes=size) for size in (1100, 700))
    assert len(small) < len(large)
    with pytest.warns(
        UserWarning, match="the target of a PSNR of 90.00 dB was not met; the nearest that was"
    ):
        data = ncbatch.encode(image, MODEL, steps=4, target_psnr=90)
    assert ncbatch.decode(data, MODEL).shape == image.shape
    with pytest.raises(ncbatch.NcbatchError, match="MS-SSIM needs at least 161 pixels a side"):
        ncbatch.encode(image, MODEL, steps=4, target_ssim=0.98)
    with pytest.raises(ncbatch.NcbatchError, match=r"^lmbda cannot be given beside target_bpp"):
        ncbatch.encode(image, MODEL, lmbda=0.01, target_bpp=1)
