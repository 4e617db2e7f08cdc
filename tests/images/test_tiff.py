"""TIFF files of every kind: the right pixels or a clear refusal."""

import io
import struct
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from ncbatch.images.checks import ImageError
from ncbatch.images.limits import ImageLimits
from ncbatch.images.read import read_file, read_image
from ncbatch.images.reading import Reading
from ncbatch.images.tiff_directory import tiff_directories
from tests.images.image_files import RNG, ByteOrder, deep, error_class, gradient, save, tiff, to_8_bits


def test_cmyk_tiff() -> None:
    inks = np.array([[[0, 0, 0, 0], [255, 0, 0, 0], [0, 0, 0, 255]]], np.uint8)
    data = save(Image.fromarray(inks, mode="CMYK"), "TIFF")
    np.testing.assert_array_equal(read_image(data)[0], [[255, 255, 255], [0, 255, 255], [0, 0, 0]])


def test_ycbcr_jpeg_in_tiff() -> None:
    pixels = gradient()
    data = save(Image.fromarray(pixels).convert("YCbCr"), "TIFF", compression="jpeg", quality=98)
    assert np.abs(read_image(data).astype(int) - pixels).mean() < 4


@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bit_tiff(order: ByteOrder) -> None:
    rgb = deep(3)
    np.testing.assert_array_equal(read_image(tiff(rgb, 2, order)), to_8_bits(rgb))
    grey = deep(1)
    want = np.repeat(to_8_bits(grey), 3, -1)
    np.testing.assert_array_equal(read_image(tiff(grey, 1, order)), want)
    rgba = deep(4)
    rgba[..., 3] = 65535
    for kind in (1, 2):
        np.testing.assert_array_equal(read_image(tiff(rgba, 2, order, t338=[kind])), to_8_bits(rgba[..., :3]))
    inks = np.array([[[0, 0, 0, 0], [65535, 0, 0, 0], [0, 0, 0, 65535]]], np.uint16)
    np.testing.assert_array_equal(
        read_image(tiff(inks, 5, order))[0], [[255, 255, 255], [0, 255, 255], [0, 0, 0]]
    )


def test_16_bit_tiff_where_white_is_zero() -> None:
    grey = deep(1)
    np.testing.assert_array_equal(read_image(tiff(grey, 0)), np.repeat(to_8_bits(65535 - grey), 3, -1))


def test_premultiplied_alpha_in_a_16_bit_tiff() -> None:
    rgba = np.array([[[20000, 0, 10000, 32768], [0, 0, 0, 0], [65535, 65535, 65535, 65535]]], np.uint16)
    data = tiff(rgba, 2, t338=[1])
    np.testing.assert_array_equal(read_image(data, alpha="black"), to_8_bits(rgba[..., :3]))
    np.testing.assert_array_equal(
        read_image(data, alpha="white"), to_8_bits(rgba[..., :3].astype(int) + 65535 - rgba[..., 3:])
    )


def test_a_tiff_with_missing_strips_is_refused() -> None:
    pixels = gradient()
    assert error_class(tiff(pixels, 2, t257=[80], t278=[40])) == "unsupported"


# ---------------------------------------- pages


def with_tifffile(*pages: tuple[np.ndarray, dict[str, Any]], **options: Any) -> bytes:
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer, **options) as writer:
        for pixels, described in pages:
            writer.write(pixels, **({"metadata": None, "photometric": "rgb"} | described))
    return buffer.getvalue()


def test_the_first_page_of_full_resolution_is_read() -> None:
    pixels = gradient()
    thumbnail = (pixels[::8, ::8].copy(), {"subfiletype": 1})
    for pages in (
        [thumbnail, (pixels, {})],
        [thumbnail, thumbnail, (pixels, {}), (255 - pixels, {})],
        [(pixels, {}), thumbnail],
        [(pixels, {"subfiletype": 1})],  # there is no other
    ):
        np.testing.assert_array_equal(read_image(with_tifffile(*pages)), pixels)


def test_files_of_several_pages_are_refused_where_that_was_asked_for() -> None:
    pixels, refusing = gradient(), Reading(frames="refuse")
    thumbnail = (pixels[::8, ::8].copy(), {"subfiletype": 1})
    with pytest.raises(ImageError, match="the TIFF file holds 2 frames; take its frames apart") as caught:
        read_file(with_tifffile((pixels, {}), thumbnail, (255 - pixels, {})), refusing)
    assert caught.value.error_class == "several_frames"
    one = read_file(with_tifffile((pixels, {}), thumbnail), refusing)  # a thumbnail is no page
    np.testing.assert_array_equal(one.pixels, pixels)


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP"])
def test_animations_are_refused_where_that_was_asked_for(file_format: str) -> None:
    frames = [Image.fromarray(np.full((9, 11, 3), value, np.uint8)) for value in (10, 100, 200)]
    moving = save(frames[0], file_format, save_all=True, append_images=frames[1:])
    with pytest.raises(ImageError, match="file holds 3 frames") as caught:
        read_file(moving, Reading(frames="refuse"))
    assert caught.value.error_class == "several_frames"
    assert read_file(moving, Reading()).dropped == ("2 frames",)
    assert read_file(save(frames[0], file_format), Reading(frames="refuse")).pixels.shape == (9, 11, 3)


def test_pages_that_are_left_out_are_said(caplog: pytest.LogCaptureFixture) -> None:
    pixels = gradient()
    thumbnail = (pixels[::8, ::8].copy(), {"subfiletype": 1})
    three = with_tifffile((pixels, {}), thumbnail, (255 - pixels, {}), (pixels[::-1].copy(), {}))
    np.testing.assert_array_equal(read_image(three, name="scans/a.tif"), pixels)
    assert caplog.messages == [
        "scans/a.tif: only its first image of full resolution is read, 2 more left out"
    ]
    caplog.clear()
    frames = [Image.fromarray(np.full((9, 11, 3), value, np.uint8)) for value in (10, 200)]
    read_image(save(frames[0], "GIF", save_all=True, append_images=frames[1:]), name="a.gif")
    assert caplog.messages == ["a.gif: only its first frame is read, 1 more left out"]
    caplog.clear()
    read_image(with_tifffile((pixels, {}), thumbnail), name="b.tif")
    read_image(three)
    assert not caplog.messages


def test_a_preview_is_not_taken_for_the_image() -> None:
    """As camera raw files have it: the first directory is small, the other one hangs below it."""
    preview = (gradient()[::8, ::8].copy(), {"subfiletype": 1, "subifds": 1})
    assert error_class(with_tifffile(preview, (gradient(), {}))) == "unsupported"


def test_a_chain_of_directories_that_bites_its_tail_ends() -> None:
    data = bytearray(with_tifffile((gradient(), {})))
    (start,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, start)
    struct.pack_into("<I", data, start + 2 + 12 * entries, start)
    np.testing.assert_array_equal(read_image(bytes(data), name="loop"), gradient())


def test_hostile_tags_cost_no_more_than_the_file() -> None:
    """Of a tag with as many values as the file has bytes one is read; of a repeated tag, the first counts."""
    data = with_tifffile(
        (
            np.zeros((3, 64, 64), np.uint8),
            {"photometric": "rgb", "planarconfig": "separate", "rowsperstrip": 8},
        )
    )
    (directory,) = tiff_directories(data)
    repeated = replace(directory, table=np.concatenate([directory.table, *[directory.table] * 100]))
    grown = len(repeated.plane(1, 3)) - len(data)
    assert grown == len(directory.plane(1, 3)) - len(data)
    many = directory.table.copy()
    (place,) = np.flatnonzero(many["tag"] == 258)
    many[place] = (258, 1, len(data) - 8, 8)
    assert len(replace(directory, table=many).values(258, 7)) == 7


@pytest.mark.parametrize(("code", "count"), [(1, 1), (3, 1), (4, 1), (7, 1), (8, 1), (3, 2)])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_orientation_in_a_number_of_any_type(code: int, count: int, compression: str | None) -> None:
    value = bytes([6]) if code == 7 else (6,) * count if count > 1 else 6
    page = (gradient(), {"extratags": [(274, code, count, value, True)], "compression": compression})
    np.testing.assert_array_equal(read_image(with_tifffile(page)), np.rot90(gradient(), -1))


# ---------------------------------------- layouts


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("tile", [None, (16, 16)])
def test_byte_orders_bigtiff_and_tiles(order: ByteOrder, big: bool, tile: tuple[int, int] | None) -> None:
    data = with_tifffile((gradient(), {"tile": tile, "compression": "zlib"}), byteorder=order, bigtiff=big)
    np.testing.assert_array_equal(read_image(data), gradient())


@pytest.mark.parametrize("tile", [(512, 512), (1024, 16), (16, 1024)])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("deeper", [False, True])
def test_tiles_far_larger_than_the_image(
    tile: tuple[int, int], compression: str | None, deeper: bool
) -> None:
    """As GDAL writes small images; libvips refuses those. In one plane and in several."""
    pixels = deep(3) if deeper else gradient()
    wanted = to_8_bits(pixels) if deeper else pixels
    options = {"photometric": "rgb", "tile": tile, "compression": compression}
    np.testing.assert_array_equal(read_image(with_tifffile((pixels, options))), wanted)
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    data = with_tifffile((planes, options | {"planarconfig": "separate"}))
    np.testing.assert_array_equal(read_image(data), wanted)
    if compression:
        hole = bytearray(data)
        at = int(tiff_directories(data)[0].values(324)[0])
        hole[at + 2] ^= 0xFF
        assert error_class(bytes(hole)) in ("unreadable", "unsupported")


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_separate_planes_of_grey_and_alpha(compression: str | None) -> None:
    grey = gradient()[..., 0]
    page = {"photometric": "minisblack", "planarconfig": "separate", "compression": compression}
    for kind in ("unassalpha", "assocalpha"):
        opaque = np.stack([grey, np.full_like(grey, 255)])
        data = with_tifffile((opaque, page | {"extrasamples": [kind]}))
        np.testing.assert_array_equal(read_image(data), np.dstack([grey] * 3))
        half = np.stack([grey // 2, np.full_like(grey, 128)])
        data = with_tifffile((half, page | {"extrasamples": [kind]}))
        assert error_class(data) == "transparent"
        shown = grey // 2 * (1 if kind == "assocalpha" else 128 / 255)
        result = read_image(data, alpha="black")[..., 0]
        assert np.abs(result - shown).max() <= 0.51
    other = np.stack([grey, 255 - grey])
    data = with_tifffile((other, page | {"extrasamples": ["unspecified"]}))
    np.testing.assert_array_equal(read_image(data), np.dstack([grey] * 3))  # it is no alpha


def test_a_colour_map_of_8_bits() -> None:
    indices = gradient()[..., 0]
    colours = RNG.integers(0, 256, (3, 256)).astype(np.uint16)
    want = np.moveaxis(colours[:, indices], 0, -1)
    for scale in (1, 256, 257):
        page = {"photometric": "palette", "colormap": colours * np.uint16(scale)}
        np.testing.assert_array_equal(read_image(with_tifffile((indices, page))), want)


BT601, BT709 = (0.299, 0.587, 0.114), (0.2126, 0.7152, 0.0722)


def ycbcr(pixels: np.ndarray, weights: tuple[float, ...], *, studio: bool = False) -> np.ndarray:
    red, green, blue = weights
    r, g, b = np.moveaxis(pixels.astype(float), -1, 0)
    y = red * r + green * g + blue * b
    cb, cr = (b - y) / (2 - 2 * blue), (r - y) / (2 - 2 * red)
    if studio:
        y, cb, cr = 16 + y * 219 / 255, cb * 112 / 127, cr * 112 / 127
    return np.rint(np.stack([y, cb + 128, cr + 128], -1)).clip(0, 255).astype(np.uint8)


def rationals(values: tuple[float, ...]) -> tuple[int, ...]:
    return tuple(part for value in values for part in (round(value * 10000), 10000))


@pytest.mark.parametrize("sampling", [(1, 1), (2, 1), (2, 2)])
@pytest.mark.parametrize("weights", [BT601, BT709])
@pytest.mark.parametrize("studio", [False, True])
def test_ycbcr_by_the_files_own_coefficients(
    sampling: tuple[int, int], weights: tuple[float, ...], studio: bool
) -> None:
    across, down = sampling
    pixels = np.kron(gradient(20, 24)[:, ::-1], np.ones((2, 2, 1), np.uint8))  # chroma survives subsampling
    coded = ycbcr(pixels, weights, studio=studio)
    blocks = coded.reshape(40 // down, down, 48 // across, across, 3).swapaxes(1, 2)
    units = [blocks[..., 0].reshape(40 // down, 48 // across, -1), blocks[:, :, 0, 0, 1:]]
    body = np.concatenate(units, axis=-1).astype(np.uint8)
    extra: dict[str, Any] = {"t530": [across, down]}
    data = tiff(coded, 6, rational={529: weights} | ({532: (16, 235, 128, 240, 128, 240)} if studio else {}),
                body=body.tobytes(), **extra)  # fmt: skip
    assert np.abs(read_image(data).astype(int) - pixels).mean() < 1.5


def test_jpeg_in_tiff_with_other_coefficients_is_refused() -> None:
    page = {"photometric": "ycbcr", "compression": "jpeg", "subsampling": (1, 1)}
    for weights, read in ((BT601, True), (BT709, False)):
        tags = [(529, 5, 3, rationals(weights), True)]
        data = with_tifffile((gradient(), page | {"extratags": tags}))
        if read:
            assert read_image(data).shape == gradient().shape
        else:
            assert error_class(data) == "unsupported"


@pytest.mark.parametrize("photometric", [0, 1])
def test_12_bits(photometric: int) -> None:
    samples = RNG.integers(0, 4096, (6, 10))
    pairs = samples.reshape(6, 5, 2)
    packed = np.stack(
        [pairs[..., 0] >> 4, (pairs[..., 0] & 15) << 4 | pairs[..., 1] >> 8, pairs[..., 1] & 255], -1
    ).astype(np.uint8)
    data = tiff(np.zeros((6, 10, 1), np.uint8), photometric, body=packed.tobytes(), t258=[12])
    want = (samples if photometric else 4095 - samples) * 255 / 4095
    assert np.abs(read_image(data)[..., 0] - want).max() <= 0.51


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("photometric", [0, 1])
def test_few_bits(depth: int, photometric: int) -> None:
    top = 2**depth - 1
    samples = RNG.integers(0, top + 1, (6, 13))
    bits = (samples[..., None] >> np.arange(depth - 1, -1, -1)) & 1
    packed = np.packbits(bits.reshape(6, -1).astype(np.uint8), axis=1)
    data = tiff(np.zeros((6, 13, 1), np.uint8), photometric, body=packed.tobytes(), t258=[depth])
    want = (samples if photometric else top - samples) * (255 // top)
    np.testing.assert_array_equal(read_image(data)[..., 0], want)


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt"])
def test_fax(compression: str) -> None:
    page = np.kron(RNG.integers(0, 2, (10, 16)), np.ones((4, 4), int)) > 0
    data = save(Image.fromarray(page), "TIFF", compression=compression)
    np.testing.assert_array_equal(read_image(data)[..., 0], page * np.uint8(255))


def test_a_file_cut_off_is_truncated_and_an_odd_one_is_not() -> None:
    for compression in (None, "zlib"):
        data = with_tifffile((gradient(), {"compression": compression}))
        assert error_class(data[:-20]) == "truncated"
        assert error_class(data[:20]) == "truncated"
    tiled = with_tifffile((gradient(), {"tile": (16, 16), "compression": "zlib"}))
    assert error_class(tiled[:-20]) == "truncated"
    unknown = tiff(gradient(), 2, t259=[12345])
    assert error_class(unknown) == "unsupported"
    assert error_class(tiff(gradient(), 32803)) == "unsupported"  # a camera's colour filter
    inks = np.dstack([gradient(), gradient()[..., :1]])
    assert read_image(tiff(inks, 5, t332=[1])).shape == gradient().shape
    assert error_class(tiff(inks, 5, t332=[2])) == "unsupported"  # spot colours


def test_a_limit_that_no_flag_raises_does_not_name_the_flag() -> None:
    wide = with_tifffile((np.zeros((1, 65536), np.uint8), {"photometric": "minisblack"}))
    with pytest.raises(ImageError, match="no side may exceed 65535; scale or cut the image") as caught:
        read_image(wide)
    assert "--max-pixels" not in str(caught.value)
    with pytest.raises(ImageError, match="raise --max-pixels"):
        read_image(with_tifffile((gradient(), {})), limits=ImageLimits(max_pixels=100))


def test_harmless_warnings_of_libtiff_do_not_cost_the_image() -> None:
    """Text without its zero, a tag of a wrong type, private tags: what programs write."""
    tags = [(270, 2, 4, b"abcd", True), (33723, 4, 2, (1, 2), True), (65001, 3, 1, 7, True)]
    data = with_tifffile((gradient(), {"extratags": tags}))
    np.testing.assert_array_equal(read_image(data), gradient())
    np.testing.assert_array_equal(read_image(data.replace(b"abcd\0", b"abcde", 1)), gradient())


@pytest.mark.parametrize("tile", [None, (16, 16)])
def test_a_hole_in_deflated_pixels_is_refused(tile: tuple[int, int] | None) -> None:
    page = {"tile": tile, "compression": "zlib", "rowsperstrip": None if tile else 16}
    data = bytearray(with_tifffile((gradient(), page)))
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as file:
        start, size = file.pages.first.dataoffsets[1], file.pages.first.databytecounts[1]
    data[start + size // 2 : start + size - 40] = bytes(size - size // 2 - 40)
    assert error_class(bytes(data)) == "unreadable"


@pytest.mark.parametrize("tile", [None, (16, 16)])
@pytest.mark.parametrize("compression", ["zlib", "lzw", "jpeg"])
def test_a_strip_or_tile_that_cannot_be_unpacked_is_never_left_black(
    compression: str, tile: tuple[int, int] | None
) -> None:
    page = {"tile": tile, "compression": compression, "rowsperstrip": None if tile else 16}
    data = bytearray(with_tifffile((gradient(), page)))
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as file:
        place = file.pages.first.dataoffsets[1]
    data[place : place + 8] = b"\xff" * 8
    assert error_class(bytes(data)) == "unsupported"
