"""Transparency that is kept: the plane comes back as it was, and colours are not touched where they show."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ncbatch.images.alpha_plane import coded_plane, filled, plane_of
from ncbatch.images.checks import ImageError
from ncbatch.images.finished import ReadImage
from ncbatch.images.read import read_file
from ncbatch.images.reading import Reading
from tests.images.image_files import gradient, png16, save, tiff
from tests.images.profiles import p3_to_srgb, rgb_profile

RNG = np.random.default_rng(5)


def plane() -> np.ndarray:
    """Fully transparent at the left, opaque at the right, and all that lies between."""
    height, width = gradient().shape[:2]
    return np.broadcast_to(np.linspace(-60, 300, width).clip(0, 255).astype(np.uint8), (height, width)).copy()


def kept(data: bytes, **options: object) -> tuple[ReadImage, np.ndarray]:
    """What is read, and the alpha plane that is carried."""
    found = read_file(data, Reading(alpha="keep", **options))  # type: ignore[arg-type]
    height, width = found.pixels.shape[:2]
    return found, plane_of(found.carried.alpha, width, height)


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "WEBP"])
def test_colours_and_plane_are_kept_as_they_are(file_format: str) -> None:
    options = {"lossless": True, "exact": True} if file_format == "WEBP" else {}
    found, opacity = kept(save(np.dstack([gradient(), plane()]), file_format, **options))
    np.testing.assert_array_equal(opacity, plane())
    seen = plane() > 0
    np.testing.assert_array_equal(found.pixels[seen], gradient()[seen])
    assert found.dropped == ()


def test_an_opaque_channel_is_dropped() -> None:
    data = save(np.dstack([gradient(), np.full_like(plane(), 255)]), "PNG")
    found = read_file(data, Reading(alpha="keep"))
    np.testing.assert_array_equal(found.pixels, gradient())
    assert not found.carried and found.dropped == ()


def test_it_is_turned_upright_and_converted_as_the_image_is() -> None:
    exif, wide = Image.Exif(), rgb_profile(1.8)
    exif[0x0112] = 6
    muted = (gradient() // 2 + 60).astype(np.uint8)
    found, opacity = kept(save(np.dstack([muted, plane()]), "PNG", exif=exif, icc_profile=wide))
    np.testing.assert_array_equal(opacity, np.rot90(plane(), -1))
    want, seen = np.rot90(p3_to_srgb(muted, 1.8), -1), opacity > 0
    assert np.abs(found.pixels.astype(int) - want)[seen].max() <= 1


def test_samples_of_16_bits_are_rounded() -> None:
    rgba = np.dstack([gradient(), plane()]).astype(np.uint16) * 257
    found, opacity = kept(png16(rgba, 6))
    np.testing.assert_array_equal(opacity, plane())
    np.testing.assert_array_equal(found.pixels[plane() > 0], gradient()[plane() > 0])
    assert found.dropped == ("16 to 8 bits",)
    rgba[..., 3] = 65534  # which is opaque in 8 bits
    assert not read_file(png16(rgba, 6), Reading(alpha="keep")).carried


@pytest.mark.parametrize("planar", [False, True])
def test_premultiplied_colours_are_divided(planar: bool) -> None:
    pytest.importorskip("imagecodecs")
    tifffile = pytest.importorskip("tifffile")
    import io

    weight = plane().astype(float)[..., None] / 255
    multiplied = np.rint(gradient() * weight).astype(np.uint8)
    rgba = np.dstack([multiplied, plane()])
    file = io.BytesIO()
    samples = np.moveaxis(rgba, -1, 0) if planar else rgba
    config = "separate" if planar else "contig"
    tifffile.imwrite(file, samples, photometric="rgb", planarconfig=config, extrasamples=["assocalpha"])
    found, opacity = kept(file.getvalue())
    np.testing.assert_array_equal(opacity, plane())
    strong = plane() > 127  # a level of the product is two of the colour there, or less
    assert np.abs(found.pixels.astype(int) - gradient())[strong].max() <= 2


def test_what_has_no_room_for_it_says_so() -> None:
    data = save(np.dstack([gradient(), plane()]), "PNG")
    found = read_file(data, Reading(alpha="keep", carries=False))
    assert found.dropped == ("alpha",) and not found.carried


def test_hidden_colours_go_over_from_those_around() -> None:
    y, x = np.mgrid[0:600, 0:301]
    slope = np.dstack([x // 2, y // 4, 200 - x // 3]).astype(np.uint8)
    hidden = (np.hypot(x - 150, y - 256) < 60) | (y > 520)
    opacity = np.where(hidden, 0, 1).astype(np.uint8)
    garbage = np.where(hidden[..., None], RNG.integers(0, 256, slope.shape), slope).astype(np.uint8)
    found = filled(garbage.copy(), opacity)
    np.testing.assert_array_equal(found[~hidden], slope[~hidden])
    # In the disc, which the parts that are filled at once meet in, it is as good as the slope itself.
    disc = hidden & (y < 400)
    assert np.abs(found.astype(int) - slope)[disc].mean() < 5
    steps = np.abs(np.diff(found.astype(int), axis=0)).max(), np.abs(np.diff(found.astype(int), axis=1)).max()
    assert max(steps) <= 12
    constant = filled(np.where(hidden[..., None], garbage, 90).astype(np.uint8), opacity)
    assert (constant == 90).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 1), (257, 3)])
def test_images_of_which_little_or_nothing_is_seen(shape: tuple[int, int]) -> None:
    pixels = RNG.integers(0, 256, (*shape, 3)).astype(np.uint8)
    opacity = np.zeros(shape, np.uint8)
    assert (filled(pixels.copy(), opacity) == 128).all()
    opacity[-1, -1] = 9
    assert (filled(pixels.copy(), opacity) == pixels[-1, -1]).all()


def test_planes_too_long_for_webp_are_png() -> None:
    long = np.arange(17_000, dtype=np.uint32).astype(np.uint8)[None]
    assert coded_plane(long).startswith(b"\x89PNG") and coded_plane(long[:, :9000]).startswith(b"RIFF")
    np.testing.assert_array_equal(plane_of(coded_plane(long), 17_000, 1), long)


@pytest.mark.parametrize("damage", [lambda d: d[:-30], lambda d: d[:40] + b"\xff" * 30, lambda d: b"none"])
def test_a_damaged_plane_is_one_error(damage: object) -> None:
    assert callable(damage)
    data = coded_plane(RNG.integers(0, 256, (40, 50)).astype(np.uint8))
    with pytest.raises(ImageError, match="the alpha plane is damaged"):
        plane_of(damage(data), 50, 40)
    with pytest.raises(ImageError, match="the alpha plane has 50 x 40 pixels, and the image 50 x 41"):
        plane_of(data, 50, 41)


def test_16_bit_tiffs_with_premultiplied_alpha_are_divided_in_16_bits() -> None:
    rgba = np.array([[[20000, 0, 10000, 32768], [0, 0, 0, 0], [65535, 65535, 65535, 65535]]], np.uint16)
    found, opacity = kept(tiff(rgba, 2, t338=[1]))
    assert opacity.tolist() == [[128, 0, 255]]
    assert found.pixels[0, 0].tolist() == [156, 0, 78] and found.pixels[0, 2].tolist() == [255] * 3
