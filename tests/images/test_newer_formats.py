"""AVIF, HEIC, JPEG 2000 and JPEG XL: pixel values, alpha, turns, profiles, frames, damage and limits."""

from __future__ import annotations

import importlib.util
import io
import sys

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from ncbatch.images.checks import ImageError
from ncbatch.images.header import image_size
from ncbatch.images.limits import ImageLimits
from ncbatch.images.read import read_file
from ncbatch.images.reading import Reading
from tests.images.image_files import gradient, save
from tests.images.profiles import p3_to_srgb, rgb_profile

HAS_JXL = importlib.util.find_spec("pillow_jxl") is not None
needs_jxl = pytest.mark.skipif(not HAS_JXL, reason="pillow-jxl-plugin is not installed")
KINDS = ["AVIF", "HEIC", "JPEG2000", pytest.param("JXL", marks=needs_jxl)]
LOSSLESS = {"JPEG2000", "JXL"}


def saved(image: Image.Image | np.ndarray, kind: str, **more: object) -> bytes:
    if kind == "HEIC":
        pillow_heif.register_heif_opener()
        return save(image, "HEIF", quality=-1, chroma=444, **more)
    if kind == "JXL":
        importlib.import_module("pillow_jxl")
        return save(image, "JXL", lossless=True, **more)
    if kind == "AVIF":
        return save(image, "AVIF", quality=100, subsampling="4:4:4", **more)
    return save(image, kind, irreversible=False, **more)


def rgba() -> np.ndarray:
    height, width = gradient().shape[:2]
    opacity = np.broadcast_to(np.linspace(0, 255, width).astype(np.uint8), (height, width))
    return np.dstack([gradient(), opacity])


def size_of(data: bytes) -> tuple[int, int] | None:
    return image_size(lambda offset, length: data[offset : offset + length])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_pixels_are_read(kind: str, mode: str) -> None:
    image = rgba() if mode == "RGBA" else gradient() if mode == "RGB" else gradient()[..., 0]
    data = saved(image, kind)
    found = read_file(data, Reading(alpha="black"))
    want = image if image.ndim == 3 else np.dstack([image] * 3)
    if mode == "RGBA":
        want = np.rint(image[..., :3] * (image[..., 3:] / 255.0))
        assert found.dropped == ("alpha",)
    assert found.pixels.shape == gradient().shape
    assert np.abs(found.pixels.astype(int) - want).max() <= (0 if kind in LOSSLESS else 3)
    assert size_of(data) == ((64, 64) if kind == "HEIC" else (50, 40))  # x265 codes whole blocks


@pytest.mark.parametrize("kind", ["AVIF", "HEIC"])
def test_the_turn_is_made_once_and_metadata_are_carried(kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    found = read_file(saved(gradient(), kind, exif=exif.tobytes()), Reading(metadata="keep"))
    want = np.rot90(gradient(), -1)
    assert found.pixels.shape == want.shape
    assert np.abs(found.pixels.astype(int) - want).max() <= 3
    kept = Image.Exif()
    kept.load(b"Exif\0\0" + found.carried.exif)
    assert kept[0x010F] == "a camera" and kept.get(0x0112, 1) == 1


@pytest.mark.parametrize("kind", ["AVIF", "HEIC"])
def test_profiles_are_applied(kind: str) -> None:
    muted = (gradient() // 2 + 60).astype(np.uint8)
    data = saved(muted, kind, icc_profile=rgb_profile(1.8))
    unconverted = read_file(data, Reading(color="ignore")).pixels
    assert np.abs(unconverted.astype(int) - muted).max() <= 3
    found = read_file(data, Reading())
    assert np.abs(found.pixels.astype(int) - p3_to_srgb(unconverted, 1.8)).max() <= 1
    assert found.dropped == () and not found.carried


def test_samples_of_ten_bits_are_rounded() -> None:
    imagecodecs = pytest.importorskip("imagecodecs")
    deep = gradient().astype(np.uint16) * 257
    file = io.BytesIO()
    heif = pillow_heif.from_bytes(mode="RGB;16", size=(50, 40), data=deep.tobytes())
    heif.save(file, quality=-1, chroma=444)
    found = read_file(file.getvalue(), Reading())
    assert found.dropped == ("16 to 8 bits",)
    assert np.abs(found.pixels.astype(int) - gradient()).max() <= 1
    assert found.pixels[gradient() == 255].min() >= 254
    if imagecodecs.AVIF.available:
        data = imagecodecs.avif_encode(deep >> 6, level=100, bitspersample=10)
        found = read_file(data, Reading())
        assert found.dropped == ("10 to 8 bits",)
        assert np.abs(found.pixels.astype(int) - gradient()).max() <= 1
    data = imagecodecs.jpeg2k_encode(deep, reversible=True)
    with pytest.raises(ImageError, match="JPEG 2000 files in colour are read with 8 bits"):
        read_file(data, Reading())
    grey = read_file(imagecodecs.jpeg2k_encode(deep[..., 0], reversible=True), Reading())
    np.testing.assert_array_equal(grey.pixels, np.dstack([gradient()[..., 0]] * 3))


def test_of_several_frames_the_first_is_read_or_the_file_is_refused() -> None:
    turned = Image.fromarray(255 - gradient())
    for kind in ("AVIF", "HEIC"):
        data = saved(Image.fromarray(gradient()), kind, save_all=True, append_images=[turned])
        found = read_file(data, Reading())
        assert np.abs(found.pixels.astype(int) - gradient()).max() <= 3 and found.dropped == ("1 frame",)
        with pytest.raises(ImageError, match=f"the {kind} file holds 2 frames"):
            read_file(data, Reading(frames="refuse"))


@pytest.mark.parametrize("kind", KINDS)
def test_cut_files_and_large_ones_are_refused(kind: str) -> None:
    data = saved(gradient(), kind)
    for end in (len(data) // 2, len(data) - 20):
        with pytest.raises(ImageError) as caught:
            read_file(data[:end], Reading())
        assert caught.value.error_class in ("truncated", "unreadable")
    with pytest.raises(ImageError, match="50 x 40 pixels: the limit is 1999"):
        read_file(data, Reading(limits=ImageLimits(max_pixels=1999)))


def test_jpeg_xl_without_its_plugin_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pillow_jxl", "pillow_jxl.JpegXLImagePlugin"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImageError, match="install the package pillow-jxl-plugin") as caught:
        read_file(b"\xff\x0a\x89\x41\x24\x08\0\x01\0\xb0\x01", Reading())
    assert caught.value.error_class == "unsupported"


@pytest.mark.parametrize(
    ("head", "size"),
    [
        (b"\xff\x0a\x89\x41\x24\x08\0\x01\0\xb0\x01\x4b", (50, 40)),  # as libjxl 0.11 wrote them
        (b"\xff\x0a\x89\xc1\x4a\x08\0\x10\0\xd0\x01\x4b", (50, 40)),
        (b"\0\0\0\x0cJXL \r\n\x87\n\0\0\0\x14ftypjxl \0\0\0\0jxl ", None),
    ],
)
def test_the_size_of_jpeg_xl_is_read_without_the_plugin(head: bytes, size: tuple[int, int] | None) -> None:
    assert size_of(head + bytes(40)) == size


def test_videos_are_refused() -> None:
    with pytest.raises(ImageError, match="AVIF and HEIC are read"):
        read_file(b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(100), Reading())
