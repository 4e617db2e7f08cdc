"""JPEG and BMP files: what libjpeg warns of, odd headers, sampling, and an alpha that is none."""

import io
import re
import struct

import numpy as np
import pytest
from PIL import Image

from ncbatch.images.checks import ImageError
from ncbatch.images.read import read_image
from tests.images.image_files import ByteOrder, error_class, exif, gradient, save


def by_pillow(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize(
    "options", [{}, {"subsampling": 0}, {"subsampling": 1}, {"progressive": True}, {"keep_rgb": True}]
)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_the_pixels_are_those_of_libjpeg_turbo(mode: str, options: dict[str, object]) -> None:
    data = save(Image.fromarray(gradient(61, 83)).convert(mode), "JPEG", **options)
    np.testing.assert_array_equal(read_image(data), by_pillow(data))


@pytest.mark.parametrize("factors", [0x31, 0x13, 0x42])
def test_sampling_that_turbojpeg_has_no_name_for(factors: int) -> None:
    data = bytearray(save(gradient(64, 64), "JPEG", subsampling=0))
    at = data.index(b"\xff\xc0")
    data[at + 11] = factors  # of the first channel, in blocks by blocks, where there was 1 by 1
    data[at + 5 : at + 9] = struct.pack(">HH", 64, 16)  # so few that the blocks which are there suffice
    np.testing.assert_array_equal(read_image(bytes(data)), by_pillow(bytes(data)))


def test_a_hole_in_the_coded_data_is_refused() -> None:
    data = bytearray(save(np.kron(gradient(), np.ones((6, 6, 1), np.uint8)), "JPEG", quality=97))
    middle = len(data) // 2
    data[middle : middle + 400] = bytes(400)
    with pytest.raises(ImageError, match=r"damaged: .*; open and save the image again") as caught:
        read_image(bytes(data))
    assert caught.value.error_class == "unreadable"


def test_a_hole_anywhere_is_refused_nearly_always() -> None:
    """Only what leaves as many blocks as before can pass, which no reader of a JPEG could tell."""
    rng = np.random.default_rng(4)
    whole = save(rng.integers(0, 256, (64, 96, 3)).astype(np.uint8), "JPEG")
    start = whole.index(b"\xff\xda") + 14
    accepted = 0
    for at in np.linspace(start, len(whole) - 150, 40).astype(int):
        try:
            read_image(whole[:at] + bytes(100) + whole[at + 100 :])
        except ImageError:
            continue
        accepted += 1
    assert accepted <= 2


def test_padding_before_the_end_marker_harms_nothing() -> None:
    data = save(gradient(), "JPEG")
    np.testing.assert_array_equal(read_image(data[:-2] + bytes(2) + data[-2:]), by_pillow(data))
    assert error_class(data[:-2] + bytes(50) + data[-2:]) == "unreadable"


def test_headers_that_say_nothing_about_the_pixels_may_be_odd() -> None:
    data = save(gradient(), "JPEG")
    short = data[:2] + b"\xff\xe0\x00\x07JFIF\0" + data[2 + 2 + 16 :]
    revision = data.replace(b"JFIF\0\1", b"JFIF\0\2")
    segment = revision[2 : 2 + 2 + 16]
    comment = b"\xff\xfe\x00\x08JFIF\0\7"
    twice = revision[:2] + segment + comment + revision[2:]
    for odd in (short, revision, twice, data + b"trailing bytes"):
        assert odd != data
        np.testing.assert_array_equal(read_image(odd), by_pillow(data))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("kind", "count"), [(1, 1), (3, 1), (4, 1), (6, 1), (7, 1), (8, 1), (9, 1), (3, 2)])
def test_orientation_in_a_number_of_any_type(kind: int, count: int, order: ByteOrder) -> None:
    plain, turned = (
        read_image(save(gradient(), "JPEG", exif=exif(value, kind, count, order))) for value in (1, 6)
    )
    np.testing.assert_array_equal(turned, np.rot90(plain, -1))


@pytest.mark.parametrize("value", [0, 9, 255])
def test_an_orientation_that_is_none_turns_nothing(value: int) -> None:
    plain = read_image(save(gradient(), "JPEG"))
    np.testing.assert_array_equal(read_image(save(gradient(), "JPEG", exif=exif(value, 3))), plain)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation_is_not_taken_from_xmp(file_format: str) -> None:
    xmp = (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        b'<rdf:Description rdf:about="" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
        b"</rdf:RDF></x:xmpmeta>"
    )
    options: dict[str, object] = {"xmp": xmp}
    if file_format == "TIFF":
        options = {"tiffinfo": {700: xmp}}
    if file_format == "PNG":
        from PIL.PngImagePlugin import PngInfo

        info = PngInfo()
        info.add_itxt("XML:com.adobe.xmp", xmp.decode())
        options = {"pnginfo": info}
    data = save(gradient(), file_format, **options)
    assert b"tiff:Orientation" in data
    assert read_image(data).shape == gradient().shape


def test_words_are_those_of_the_project_not_of_a_library_alone() -> None:
    for data in (
        b"BM" + bytes(60),
        save(gradient(), "JPEG").replace(b"\xff\xc0", b"\xff\xc3"),
        b"GIF89a" + bytes(9),
    ):
        with pytest.raises(ImageError) as caught:
            read_image(data)
        text = str(caught.value)
        assert re.match(r"(the|lib)[a-z]* ", text) and not text.endswith(".") and "\n" not in text, text


# ---------------------------------------- BMP


def bmp(
    bits: int, rows: bytes, *, height: int = 3, compression: int = 0, masks: bytes = b"", palette: bytes = b""
) -> bytes:
    """4 pixels wide. `masks` makes the header one of version 5."""
    size = 124 if masks else 40
    header = struct.pack(
        "<IiiHHIIiiII", size, 4, height, 1, bits, compression, len(rows), 0, 0, len(palette) // 4, 0
    )
    if masks:
        header += masks + b"BGRs" + bytes(64)
    start = 14 + len(header) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(rows), 0, 0, start) + header + palette + rows


BGRA_MASKS = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
PIXELS = np.arange(36, dtype=np.uint8).reshape(3, 4, 3) * 7
BOTTOM_UP = PIXELS[::-1, :, ::-1]


def with_fourth(value: np.ndarray | int) -> bytes:
    fourth = np.broadcast_to(np.asarray(value, np.uint8), (3, 4))[::-1]
    return np.dstack([BOTTOM_UP, fourth]).tobytes()


@pytest.mark.parametrize("fourth", [0, 255])
@pytest.mark.parametrize("masks", [b"", BGRA_MASKS])
def test_a_fourth_byte_that_is_the_same_throughout_is_no_transparency(fourth: int, masks: bytes) -> None:
    data = bmp(32, with_fourth(fourth), compression=3 if masks else 0, masks=masks)
    for alpha in ("refuse", "white", "black"):
        np.testing.assert_array_equal(read_image(data, alpha=alpha), PIXELS)


def test_a_bmp_with_an_alpha_channel_in_use() -> None:
    alpha = np.zeros((3, 4), np.uint8)
    alpha[1, 2] = 255
    data = bmp(32, with_fourth(alpha), compression=3, masks=BGRA_MASKS)
    assert error_class(data) == "transparent"
    want = np.full_like(PIXELS, 255)
    want[1, 2] = PIXELS[1, 2]
    np.testing.assert_array_equal(read_image(data, alpha="white"), want)


def test_bmp_of_other_depths() -> None:
    np.testing.assert_array_equal(read_image(bmp(24, BOTTOM_UP.tobytes())), PIXELS)
    np.testing.assert_array_equal(read_image(bmp(24, PIXELS[..., ::-1].tobytes(), height=-3)), PIXELS)
    colours = np.arange(64, dtype=np.uint8).reshape(16, 4) * 3
    indices = np.arange(12).reshape(3, 4) % 16
    want = colours[indices][..., 2::-1]
    eight = indices[::-1].astype(np.uint8).tobytes()
    np.testing.assert_array_equal(read_image(bmp(8, eight, palette=colours.tobytes())), want)
    four = b"".join(bytes([row[0] << 4 | row[1], row[2] << 4 | row[3], 0, 0]) for row in indices[::-1])
    np.testing.assert_array_equal(read_image(bmp(4, four, palette=colours.tobytes())), want)
    one = b"".join(
        bytes([sum((v & 1) << 7 - i for i, v in enumerate(row)), 0, 0, 0]) for row in indices[::-1]
    )
    np.testing.assert_array_equal(
        read_image(bmp(1, one, palette=colours[:2].tobytes())), colours[indices & 1][..., 2::-1]
    )
    fives = np.arange(36).reshape(3, 4, 3) % 32
    packed = (fives[..., 0] << 10 | fives[..., 1] << 5 | fives[..., 2])[::-1].astype("<u2").tobytes()
    result = read_image(bmp(16, packed)).astype(int)
    assert np.abs(result - fives * 255 / 31).max() < 1


def test_a_bmp_that_is_cut_off_says_so() -> None:
    data = bmp(24, BOTTOM_UP.tobytes())
    for cut in (20, 40, len(data) - 1):
        assert error_class(data[:cut]) == "truncated"
