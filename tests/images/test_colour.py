"""Colour profiles, and everything else that an image file says beside its pixels."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from ncbatch.images.carried import Carried
from ncbatch.images.finished import ReadImage
from ncbatch.images.read import read_file
from ncbatch.images.reading import Reading
from ncbatch.images.tiff_directory import tiff_directories
from ncbatch.images.write import write_png
from tests.images.image_files import gradient, png, png16, save
from tests.images.profiles import cmyk_profile, grey_profile, p3_to_srgb, rgb_profile, srgb

WIDE = rgb_profile(1.8)
KEEP = Reading(color="keep", metadata="keep")
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description rdf:about="" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
    b"</rdf:RDF></x:xmpmeta>"
)


def muted() -> np.ndarray:
    """Colours that both sRGB and Display P3 have."""
    return (gradient() // 2 + 60).astype(np.uint8)


def exif_block(orientation: int = 1) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = orientation, "a camera"
    exif.get_ifd(0x8769)[0x9003] = "2026:12:02 01:02:03"
    return exif


def read(data: bytes, **options: object) -> ReadImage:
    return read_file(data, Reading(**options))  # type: ignore[arg-type]


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_pixels_become_srgb_by_the_files_profile(file_format: str) -> None:
    options = {"PNG": {}, "TIFF": {}, "WEBP": {"lossless": True}}.get(file_format, {"quality": 98})
    data = save(muted(), file_format, icc_profile=WIDE, **options)
    unconverted = read(data, color="ignore")
    assert unconverted.dropped == ("icc",) and not unconverted.carried
    converted = read(data)
    assert converted.dropped == () and not converted.carried
    want = p3_to_srgb(unconverted.pixels, 1.8)
    assert np.abs(converted.pixels.astype(int) - want).max() <= 1
    assert np.abs(want.astype(int) - unconverted.pixels).max() > 10
    kept = read(data, color="keep")
    np.testing.assert_array_equal(kept.pixels, unconverted.pixels)
    assert kept.carried == Carried(icc=WIDE) and kept.dropped == ()
    without_room = read(data, color="keep", carries=False)
    assert not without_room.carried and without_room.dropped == ("icc",)


def test_pixels_that_are_srgb_stay_as_they_are() -> None:
    rgb = save(gradient(), "PNG", icc_profile=srgb())
    np.testing.assert_array_equal(read(rgb).pixels, gradient())
    assert read(rgb).dropped == () and not read(rgb).carried


def test_samples_of_16_bits_are_converted() -> None:
    deep = muted().astype(np.uint16) * 257
    data = png16(deep, 2, (b"iCCP", b"wide\0\0" + zlib.compress(WIDE)))
    converted = read(data)
    assert np.abs(converted.pixels.astype(int) - p3_to_srgb(muted(), 1.8)).max() <= 1
    assert converted.dropped == ("16 to 8 bits",)


@pytest.mark.parametrize("rule", ["convert", "keep"])
def test_grey_becomes_srgb_by_a_profile_of_grey(rule: str) -> None:
    grey = gradient()[..., 0]
    data = save(Image.fromarray(grey), "PNG", icc_profile=grey_profile(1.0))
    found = read(data, color=rule)
    linear = grey / 255.0
    want = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055) * 255
    assert np.abs(found.pixels - want[..., None]).max() <= 1.5
    assert not found.carried and found.dropped == ()
    # Grey samples may have a profile of RGB, too.
    shown = read(save(Image.fromarray(grey), "TIFF", icc_profile=WIDE))
    assert np.abs(shown.pixels.astype(int) - p3_to_srgb(np.dstack([grey] * 3), 1.8)).max() <= 1


@pytest.mark.parametrize("rule", ["convert", "keep"])
@pytest.mark.parametrize("file_format", ["JPEG", "TIFF"])
def test_inks_become_srgb_by_their_profile(file_format: str, rule: str) -> None:
    inks = np.zeros((16, 16, 4), np.uint8)
    inks[:, 8:, 3] = 255  # black, which takes a quarter of the lightness here
    page = Image.frombytes("CMYK", (16, 16), inks.tobytes())
    options = {"quality": 100} if file_format == "JPEG" else {}
    found = read(save(page, file_format, icc_profile=cmyk_profile(), **options), color=rule)
    assert found.pixels[:, :8].min() >= 253 and not found.carried and found.dropped == ()
    # Y of L* 75 is 0.4828, which is 185 in sRGB; black point compensation moves it down from there
    assert 120 < found.pixels[:, 12].mean() < 190 and np.ptp(found.pixels[:, 12], axis=-1).max() <= 2
    plain = read(save(page, file_format, icc_profile=cmyk_profile(), **options), color="ignore")
    assert plain.pixels[:, 12].max() < 5 and plain.dropped == ("icc",)


@pytest.mark.parametrize("rule", ["convert", "keep"])
@pytest.mark.parametrize(
    "profile",
    [
        b"no profile at all",
        WIDE[:200],
        WIDE[:128] + bytes(len(WIDE) - 128),
        cmyk_profile(),
        grey_profile(2.2),
    ],
    ids=["text", "cut", "no tags", "of inks", "of grey"],
)
def test_a_damaged_profile_costs_itself_only(profile: bytes, rule: str) -> None:
    found = read(save(gradient(), "TIFF", icc_profile=profile), color=rule)
    np.testing.assert_array_equal(found.pixels, gradient())
    assert not found.carried and found.dropped == ("damaged icc",)


def test_colours_are_converted_before_they_lie_on_white() -> None:
    opacity = np.full((*muted().shape[:2], 1), 128, np.uint8)
    data = save(np.concatenate([muted(), opacity], -1), "PNG", icc_profile=WIDE)
    found = read(data, alpha="white")
    want = p3_to_srgb(muted(), 1.8) * (128 / 255) + 127
    assert np.abs(found.pixels - want).max() <= 1.5 and found.dropped == ("alpha",)


@pytest.mark.parametrize("file_format", ["JPEG", "WEBP", "PNG"])
def test_metadata_is_carried_upright_and_comes_back(file_format: str) -> None:
    stored = np.ascontiguousarray(np.rot90(gradient(), 1))
    options = {"lossless": True} if file_format == "WEBP" else {}
    data = save(stored, file_format, exif=exif_block(6), icc_profile=WIDE, **options)
    if file_format != "PNG":
        data = save(stored, file_format, exif=exif_block(6), icc_profile=WIDE, xmp=XMP, **options)
    found = read_file(data, KEEP)
    assert found.dropped == () and found.pixels.shape == gradient().shape
    back = Image.open(io.BytesIO(write_png(found.pixels, found.carried)))
    assert back.getexif()[0x010F] == "a camera" and back.getexif()[0x0112] == 1
    assert back.getexif().get_ifd(0x8769)[0x9003] == "2026:12:02 01:02:03"
    assert back.info["icc_profile"] == WIDE
    np.testing.assert_array_equal(np.asarray(ImageOps.exif_transpose(back)), found.pixels)
    if file_format != "PNG":
        assert back.info["xmp"] == XMP.replace(b'Orientation="6"', b'Orientation="1"')
    again = read_file(write_png(found.pixels, found.carried), KEEP)
    np.testing.assert_array_equal(again.pixels, found.pixels)
    assert again.carried == found.carried
    stripped = read(data, color="keep", metadata="strip")
    assert stripped.carried == Carried(icc=WIDE)
    assert stripped.dropped == (("exif",) if file_format == "PNG" else ("exif", "xmp"))


def test_the_turn_that_xmp_alone_asks_for_stays_its_own() -> None:
    found = read_file(save(gradient(), "JPEG", xmp=XMP), KEEP)
    assert found.pixels.shape == gradient().shape and found.carried == Carried(xmp=XMP)


def with_exif_directory(data: bytes) -> bytes:
    """A TIFF file of Pillow's, which leaves that directory out, with one that tells the time."""
    text = b"2026:12:02 01:02:03\0"
    at = len(data)
    inner = struct.pack("<HHHII", 1, 0x9003, 2, len(text), at + 18) + bytes(4) + text
    table = tiff_directories(data)[0].table
    outer = at + len(inner)
    entries = [entry.tobytes() for entry in table] + [struct.pack("<HHII", 0x8769, 4, 1, at)]
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return data[:4] + struct.pack("<I", outer) + data[8:] + inner + directory


def test_a_tiffs_tags_are_carried_as_exif() -> None:
    exif = exif_block()
    exif[274], exif[700], exif[33432] = 3, XMP, "someone"
    data = with_exif_directory(save(gradient(), "TIFF", exif=exif))
    found = read_file(data, KEEP)
    back = Image.open(io.BytesIO(write_png(found.pixels, found.carried)))
    assert found.carried.xmp == XMP.replace(b'Orientation="6"', b'Orientation="1"')
    assert back.getexif()[33432] == "someone" and back.getexif().get(0x0112, 1) == 1
    assert back.getexif().get_ifd(0x8769)[0x9003] == "2026:12:02 01:02:03"
    np.testing.assert_array_equal(found.pixels, gradient()[::-1, ::-1])


def test_broken_exif_is_dropped() -> None:
    found = read_file(save(gradient(), "JPEG", exif=b"Exif\0\0garbage"), KEEP)
    assert not found.carried and found.dropped == ("damaged exif",)


@pytest.mark.parametrize(
    ("numbers", "carried", "dropped"),
    [
        (bytes([1, 13, 0, 1]), b"", ()),  # sRGB
        (bytes([12, 13, 0, 1]), bytes([12, 13, 0, 1]), ("cicp",)),  # Display P3
        (bytes([9, 16, 0, 1]), bytes([9, 16, 0, 1]), ("hdr",)),  # BT.2100 PQ
    ],
)
def test_colour_that_four_numbers_state_is_carried(
    numbers: bytes, carried: bytes, dropped: tuple[str, ...]
) -> None:
    rows = [row.tobytes() for row in gradient()]
    data = png(rows, 50, 40, 8, 2, (b"cICP", numbers))
    for rule in ("convert", "keep"):
        found = read(data, color=rule)
        np.testing.assert_array_equal(found.pixels, gradient())
        assert found.carried == Carried(cicp=carried) and found.dropped == ()
    assert read(write_png(gradient(), Carried(cicp=carried))).carried.cicp == carried
    assert read(data, color="ignore").dropped == read(data, carries=False).dropped == dropped


def test_what_is_not_read_is_named() -> None:
    with_gain = XMP.replace(b"tiff/1.0/", b"hdr-gain-map/1.0/").replace(b"tiff", b"hdrgm")
    gain = save(gradient(), "JPEG", xmp=with_gain)
    assert read(gain, metadata="keep").dropped == ("gain map",)
    pair = save(gradient(), "MPO", save_all=True, append_images=[Image.fromarray(muted())])
    assert read(pair).dropped == ("further images",)
    for file_format in ("PNG", "GIF", "WEBP", "TIFF"):
        more = [Image.fromarray(muted()), Image.fromarray(gradient()[::-1])]
        data = save(gradient(), file_format, save_all=True, append_images=more)
        assert read(data).dropped == ("2 frames",), file_format
    assert read(save(gradient(), "PNG")).dropped == ()
