"""PNG files: depths, keys, interlacing, damage, and writing them."""

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from ncbatch.images.read import read_image
from ncbatch.images.write import write_png
from tests.images.image_files import RNG, deep, error_class, gradient, png, png16, png_chunk, save, to_8_bits


@pytest.mark.parametrize("depth", [2, 4])
def test_png_of_2_and_4_bits(depth: int) -> None:
    row = np.arange(8) % (2**depth)
    packed = np.packbits(((row[:, None] >> np.arange(depth - 1, -1, -1)) & 1).astype(np.uint8)).tobytes()
    result = read_image(png([packed] * 3, 8, 3, depth, 0))
    np.testing.assert_array_equal(result[1, :, 0], row * 255 // (2**depth - 1))
    key = (b"tRNS", struct.pack(">H", 2))
    result = read_image(png([packed] * 3, 8, 3, depth, 0, key), alpha="white")
    np.testing.assert_array_equal(
        result[1, :, 0], np.where(row == 2, 255, row * 255 // (2**depth - 1)).astype(np.uint8)
    )


@pytest.mark.parametrize(("colour_type", "channels"), [(0, 1), (2, 3)])
def test_16_bit_png_is_rounded(colour_type: int, channels: int) -> None:
    samples = deep(channels)
    np.testing.assert_array_equal(
        read_image(png16(samples, colour_type)), np.broadcast_to(to_8_bits(samples), (6, 9, 3))
    )


@pytest.mark.parametrize(("colour_type", "channels"), [(4, 2), (6, 4)])
def test_16_bit_png_with_alpha(colour_type: int, channels: int) -> None:
    samples = deep(channels)
    data = png16(samples, colour_type)
    assert error_class(data) == "transparent"
    colour, weight = samples[..., :-1].astype(float), samples[..., -1:].astype(float) / 65535
    for alpha, behind in (("white", 65535.0), ("black", 0.0)):
        want = to_8_bits(colour * weight + behind * (1 - weight))
        result = read_image(data, alpha=alpha)  # type: ignore[arg-type]
        assert np.abs(result.astype(int) - want).max() <= 1
        assert (result == want).mean() > 0.99
    samples[..., -1] = 65535
    opaque = read_image(png16(samples, colour_type))
    np.testing.assert_array_equal(opaque, np.broadcast_to(to_8_bits(samples[..., :-1]), (6, 9, 3)))


def test_colour_keys() -> None:
    pixels = gradient(4, 4)
    data = save(pixels, "PNG", transparency=tuple(int(value) for value in pixels[2, 1]))
    assert error_class(data) == "transparent"
    want = pixels.copy()
    want[2, 1] = 255
    np.testing.assert_array_equal(read_image(data, alpha="white"), want)
    assert read_image(save(pixels, "PNG", transparency=(1, 2, 3))).shape == (4, 4, 3)

    grey = np.arange(16, dtype=np.uint8).reshape(4, 4)
    result = read_image(save(grey, "PNG", transparency=6), alpha="white")
    np.testing.assert_array_equal(result[..., 0], np.where(grey == 6, 255, grey))

    for colour_type, channels in ((0, 1), (2, 3)):
        samples = deep(channels)
        key = (b"tRNS", samples[3, 3].astype(">u2").tobytes())
        near = samples.copy()
        near[3, 3, 0] ^= 1  # equal to the key in the high byte only
        assert error_class(png16(samples, colour_type, key)) == "transparent"
        assert read_image(png16(near, colour_type, key)).shape == (6, 9, 3)


def test_a_png_with_missing_rows_is_refused_even_when_it_is_well_formed() -> None:
    rows = [row.tobytes() for row in gradient()]
    assert error_class(png(rows[:20], 50, 40, 8, 2)) == "unreadable"
    assert read_image(png(rows, 50, 40, 8, 2)).shape == (40, 50, 3)


def test_an_interlaced_png_is_counted_right() -> None:
    def adam7(height: int, width: int) -> bytes:
        stream = b""
        for x, y, dx, dy in [
            (0, 0, 8, 8),
            (4, 0, 8, 8),
            (0, 4, 4, 8),
            (2, 0, 4, 4),
            (0, 2, 2, 4),
            (1, 0, 2, 2),
            (0, 1, 1, 2),
        ]:
            part = gradient(height, width)[y::dy, x::dx]
            stream += b"".join(b"\0" + row.tobytes() for row in part) if part.size else b""
        return stream

    for height, width in ((1, 1), (3, 2), (40, 50), (5, 4)):
        header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 1)
        for stream, whole in ((adam7(height, width), True), (adam7(height, width)[:-1], False)):
            data = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header)
            data += png_chunk(b"IDAT", zlib.compress(stream)) + png_chunk(b"IEND", b"")
            if whole:
                np.testing.assert_array_equal(read_image(data), gradient(height, width))
            else:
                assert error_class(data) == "unreadable"


def test_a_png_with_a_damaged_pixel_is_noticed_by_its_checksum() -> None:
    data = bytearray(save(RNG.integers(0, 256, (40, 50, 3)).astype(np.uint8), "PNG", compress_level=0))
    data[len(data) // 2] ^= 1
    assert error_class(bytes(data)) == "unreadable"


def test_write_png_round_trip() -> None:
    for shape in ((1, 1, 3), (17, 5, 3)):
        pixels = RNG.integers(0, 256, shape).astype(np.uint8)
        np.testing.assert_array_equal(read_image(write_png(pixels)), pixels)
    turned = gradient()[::-1].swapaxes(0, 1)
    np.testing.assert_array_equal(read_image(write_png(turned)), turned)


@pytest.mark.parametrize(
    "pixels", [np.zeros((4, 4)), np.zeros((4, 4, 2), np.uint8), np.zeros((0, 4, 3), np.uint8)]
)
def test_write_png_refuses_other_arrays(pixels: np.ndarray) -> None:
    with pytest.raises(ValueError, match="height, width, 3"):
        write_png(pixels)


@pytest.mark.parametrize(
    "extra",
    [
        (b"iCCP", b"bad\0\0no deflate stream"),
        (b"iCCP", b"no profile at all"),
        (b"tIME", b"x"),
        (b"gAMA", b""),
        (b"pHYs", b"12"),
        (b"cHRM", b"123"),
        (b"eXIf", b"no EXIF"),
    ],
)
def test_broken_ancillary_chunks_do_not_cost_the_image(extra: tuple[bytes, bytes]) -> None:
    rows = [row.tobytes() for row in gradient()]
    np.testing.assert_array_equal(read_image(png(rows, 50, 40, 8, 2, extra)), gradient())


@pytest.mark.parametrize("place", [33, -12])
def test_a_wrong_checksum_in_an_ancillary_chunk_harms_nothing(place: int) -> None:
    whole = save(gradient(), "PNG")
    broken = png_chunk(b"tEXt", b"a\0b")[:-1] + b"\0"
    assert broken != png_chunk(b"tEXt", b"a\0b")
    np.testing.assert_array_equal(read_image(whole[:place] + broken + whole[place:]), gradient())


def test_an_unknown_critical_chunk_is_unsupported() -> None:
    whole = save(gradient(), "PNG")
    assert error_class(whole[:33] + png_chunk(b"ABCD", b"?") + whole[33:]) == "unsupported"


def interlaced(samples: np.ndarray, pack: Callable[[np.ndarray], bytes]) -> list[bytes]:
    """The rows of Adam7's seven passes."""
    steps = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    parts = [samples[y::dy, x::dx] for x, y, dx, dy in steps]
    return [pack(row) for part in parts if part.size for row in part]


@pytest.mark.parametrize("adam7", [False, True], ids=["plain", "interlaced"])
@pytest.mark.parametrize(
    ("colour_type", "depth"),
    [
        *[(0, depth) for depth in (1, 2, 4, 8, 16)],
        *[(3, depth) for depth in (1, 2, 4, 8)],
        *[(colour_type, depth) for colour_type in (2, 4, 6) for depth in (8, 16)],
    ],
)
def test_every_kind_of_png(colour_type: int, depth: int, adam7: bool) -> None:
    """Each colour type at each depth, written here, judged by arithmetic and, up to 8 bits, by Pillow."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour_type]
    top = 2**depth - 1
    samples = np.random.default_rng(depth).integers(0, top + 1, (19, 23, channels))
    if colour_type in (4, 6):
        samples[..., -1] = np.random.default_rng(9).choice([0, top // 3, top], (19, 23))

    def pack(row: np.ndarray) -> bytes:
        if depth == 16:
            return row.astype(">u2").tobytes()
        bits = (row.reshape(-1, 1) >> np.arange(depth - 1, -1, -1)) & 1
        return np.packbits(bits.astype(np.uint8)).tobytes()

    palette = (
        np.random.default_rng(1).integers(0, 256, (top + 1 if colour_type == 3 else 1, 3)).astype(np.uint8)
    )
    extra = [(b"PLTE", palette.tobytes())] if colour_type == 3 else []
    rows = interlaced(samples, pack) if adam7 else [pack(row) for row in samples]
    data = png(rows, 23, 19, depth, colour_type, *extra, interlace=int(adam7))
    if colour_type == 3:
        want: np.ndarray = palette[samples[..., 0]].astype(float)
    elif colour_type in (4, 6):
        weight = samples[..., -1:] / top
        want = (samples[..., :-1] / top * weight + 1 - weight) * 255
    else:
        want = samples / top * 255
    result = read_image(data, alpha="white")
    want = np.broadcast_to(want, result.shape)
    # Of 16 bits with alpha, two roundings: to 16 bits, then to 8.
    assert np.abs(result - want).max() <= 0.51
    if depth <= 8:
        over = Image.new("RGBA", (23, 19), "white")
        over.alpha_composite(Image.open(io.BytesIO(data)).convert("RGBA"))
        assert np.abs(np.asarray(over)[..., :3].astype(int) - result).max() <= 1
