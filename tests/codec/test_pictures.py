"""Reading pictures: real pixel values, every orientation, and damage of every kind."""

import io
import pickle
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from ncbatch.codec.pictures import PictureError, PictureLimits, read_picture, write_png

RNG = np.random.default_rng(7)


def gradient(height: int = 40, width: int = 50) -> np.ndarray:
    """Smooth, but without symmetry, so that a turned or mirrored copy differs."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 5 + y, y * 6, 255 - x - y * 3], axis=-1).clip(0, 255).astype(np.uint8)


def save(picture: Image.Image | np.ndarray, file_format: str, **options: object) -> bytes:
    picture = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    buffer = io.BytesIO()
    picture.save(buffer, file_format, **options)
    return buffer.getvalue()


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(
    rows: list[bytes], width: int, height: int, depth: int, colour_type: int, *extra: tuple[bytes, bytes]
) -> bytes:
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)),
            *[png_chunk(kind, body) for kind, body in extra],
            png_chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))),
            png_chunk(b"IEND", b""),
        ]
    )


def png16(samples: np.ndarray, colour_type: int, *extra: tuple[bytes, bytes]) -> bytes:
    rows = [row.astype(">u2").tobytes() for row in samples]
    return png(rows, samples.shape[1], samples.shape[0], 16, colour_type, *extra)


def tiff(samples: np.ndarray, photometric: int, order: str = "<", **tags: list[int]) -> bytes:
    """An uncompressed TIFF whose directory stands at the end, as many writers put it."""
    height, width, channels = samples.shape
    body = samples.astype(samples.dtype.newbyteorder(order)).tobytes()
    bits = samples.dtype.itemsize * 8
    entries = {
        256: [width],
        257: [height],
        258: [bits] * channels,
        259: [1],
        262: [photometric],
        273: [8],
        277: [channels],
        278: [height],
        279: [len(body)],
        284: [1],
    } | {int(tag[1:]): values for tag, values in tags.items()}
    start = 8 + len(body) + 2 + 12 * len(entries) + 4
    directory, values_area = struct.pack(order + "H", len(entries)), b""
    for tag, values in sorted(entries.items()):
        packed = struct.pack(order + "I" * len(values), *values)
        if len(packed) > 4:
            values_area += packed
            packed = struct.pack(order + "I", start + len(values_area) - len(packed))
        directory += struct.pack(order + "HHI", tag, 4, len(values)) + packed
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8 + len(body))
    # The values precede nothing: a cut anywhere in the directory or in them must be noticed.
    return head + body + directory + struct.pack(order + "I", 0) + values_area


def to_8_bits(samples: np.ndarray) -> np.ndarray:
    return np.rint(samples.astype(np.float64) / 257).astype(np.uint8)


def error_class(data: bytes, **options: object) -> str:
    with pytest.raises(PictureError) as caught:
        read_picture(data, **options)  # type: ignore[arg-type]
    return caught.value.error_class


# ---------------------------------------- formats, modes


@pytest.mark.parametrize(
    ("file_format", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_deflate"}),
        ("TIFF", {"compression": "packbits"}),
    ],
)
def test_lossless_formats_give_the_very_pixels(file_format: str, options: dict[str, object]) -> None:
    pixels = gradient()
    result = read_picture(save(pixels, file_format, **options))
    assert result.dtype == np.uint8
    assert result.flags.c_contiguous and result.flags.writeable
    np.testing.assert_array_equal(result, pixels)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_jpeg(options: dict[str, object]) -> None:
    pixels = gradient()
    result = read_picture(save(pixels, "JPEG", quality=98, **options))
    assert result.shape == pixels.shape
    assert np.abs(result.astype(int) - pixels).mean() < 4


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (3, 2), (65, 63)])
@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"])
def test_every_size(size: tuple[int, int], file_format: str) -> None:
    pixels = np.full((*size, 3), 128, np.uint8)
    result = read_picture(save(pixels, file_format))
    assert result.shape == pixels.shape
    assert np.abs(result.astype(int) - 128).max() <= 2


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "BMP", "GIF", "JPEG"])
def test_grey(file_format: str) -> None:
    grey = gradient()[..., 0]
    result = read_picture(save(grey, file_format, **({"quality": 100} if file_format == "JPEG" else {})))
    np.testing.assert_allclose(result.astype(int), np.repeat(grey[..., None], 3, -1), atol=2)


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "BMP", "GIF"])
def test_one_bit(file_format: str) -> None:
    black_white = gradient()[..., 0] > 100
    result = read_picture(save(Image.fromarray(black_white), file_format))
    np.testing.assert_array_equal(result, np.repeat(black_white[..., None] * np.uint8(255), 3, -1))


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "BMP", "GIF"])
def test_palette(file_format: str) -> None:
    palette = Image.fromarray(gradient()).quantize(37)
    result = read_picture(save(palette, file_format))
    np.testing.assert_array_equal(result, np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize("depth", [2, 4])
def test_png_of_2_and_4_bits(depth: int) -> None:
    row = np.arange(8) % (2**depth)
    packed = np.packbits(((row[:, None] >> np.arange(depth - 1, -1, -1)) & 1).astype(np.uint8)).tobytes()
    result = read_picture(png([packed] * 3, 8, 3, depth, 0))
    np.testing.assert_array_equal(result[1, :, 0], row * 255 // (2**depth - 1))
    key = (b"tRNS", struct.pack(">H", 2))
    result = read_picture(png([packed] * 3, 8, 3, depth, 0, key), alpha="white")
    np.testing.assert_array_equal(
        result[1, :, 0], np.where(row == 2, 255, row * 255 // (2**depth - 1)).astype(np.uint8)
    )


def test_gif_gives_its_first_frame() -> None:
    frames = [Image.fromarray(np.full((9, 11, 3), value, np.uint8)) for value in (10, 200)]
    data = save(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert Image.open(io.BytesIO(data)).n_frames == 2  # type: ignore[attr-defined]
    np.testing.assert_array_equal(read_picture(data), np.full((9, 11, 3), 10, np.uint8))


def test_animated_webp_and_png_give_their_first_frame() -> None:
    frames = [Image.fromarray(np.full((16, 16, 3), value, np.uint8)) for value in (10, 200)]
    for file_format in ("WEBP", "PNG"):
        data = save(frames[0], file_format, save_all=True, append_images=frames[1:], lossless=True)
        assert int(read_picture(data).max()) == 10


def test_multi_picture_jpeg_gives_its_first() -> None:
    pixels = gradient()
    data = save(pixels, "MPO", save_all=True, append_images=[Image.fromarray(pixels[::-1])], quality=98)
    assert np.abs(read_picture(data).astype(int) - pixels).mean() < 4


def test_cmyk_jpeg_is_not_a_negative() -> None:
    pixels = gradient()
    result = read_picture(save(Image.fromarray(pixels).convert("CMYK"), "JPEG", quality=98))
    assert np.abs(result.astype(int) - pixels).mean() < 5


def test_cmyk_tiff() -> None:
    inks = np.array([[[0, 0, 0, 0], [255, 0, 0, 0], [0, 0, 0, 255]]], np.uint8)
    data = save(Image.fromarray(inks, mode="CMYK"), "TIFF")
    np.testing.assert_array_equal(read_picture(data)[0], [[255, 255, 255], [0, 255, 255], [0, 0, 0]])


def test_ycbcr_jpeg_in_tiff() -> None:
    pixels = gradient()
    data = save(Image.fromarray(pixels).convert("YCbCr"), "TIFF", compression="jpeg", quality=98)
    assert np.abs(read_picture(data).astype(int) - pixels).mean() < 4


# ---------------------------------------- 16 bit samples


def deep(channels: int) -> np.ndarray:
    samples = RNG.integers(0, 65536, (6, 9, channels)).astype(np.uint16)
    samples[0, :4, 0] = [0, 127, 129, 65535]
    return samples


@pytest.mark.parametrize(("colour_type", "channels"), [(0, 1), (2, 3)])
def test_16_bit_png_is_rounded(colour_type: int, channels: int) -> None:
    samples = deep(channels)
    np.testing.assert_array_equal(
        read_picture(png16(samples, colour_type)), np.broadcast_to(to_8_bits(samples), (6, 9, 3))
    )


@pytest.mark.parametrize(("colour_type", "channels"), [(4, 2), (6, 4)])
def test_16_bit_png_with_alpha(colour_type: int, channels: int) -> None:
    samples = deep(channels)
    data = png16(samples, colour_type)
    assert error_class(data) == "transparent"
    colour, weight = samples[..., :-1].astype(float), samples[..., -1:].astype(float) / 65535
    for alpha, behind in (("white", 65535.0), ("black", 0.0)):
        want = to_8_bits(colour * weight + behind * (1 - weight))
        result = read_picture(data, alpha=alpha)  # type: ignore[arg-type]
        assert np.abs(result.astype(int) - want).max() <= 1
        assert (result == want).mean() > 0.99
    samples[..., -1] = 65535
    opaque = read_picture(png16(samples, colour_type))
    np.testing.assert_array_equal(opaque, np.broadcast_to(to_8_bits(samples[..., :-1]), (6, 9, 3)))


@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bit_tiff(order: str) -> None:
    rgb = deep(3)
    np.testing.assert_array_equal(read_picture(tiff(rgb, 2, order)), to_8_bits(rgb))
    grey = deep(1)
    want = np.repeat(to_8_bits(grey), 3, -1)
    np.testing.assert_array_equal(read_picture(tiff(grey, 1, order)), want)
    rgba = deep(4)
    rgba[..., 3] = 65535
    for kind in (1, 2):
        np.testing.assert_array_equal(
            read_picture(tiff(rgba, 2, order, t338=[kind])), to_8_bits(rgba[..., :3])
        )
    inks = np.array([[[0, 0, 0, 0], [65535, 0, 0, 0], [0, 0, 0, 65535]]], np.uint16)
    np.testing.assert_array_equal(
        read_picture(tiff(inks, 5, order))[0], [[255, 255, 255], [0, 255, 255], [0, 0, 0]]
    )


def test_16_bit_tiff_where_white_is_zero() -> None:
    grey = deep(1)
    np.testing.assert_array_equal(read_picture(tiff(grey, 0)), np.repeat(to_8_bits(65535 - grey), 3, -1))


def test_premultiplied_alpha_in_a_16_bit_tiff() -> None:
    rgba = np.array([[[20000, 0, 10000, 32768], [0, 0, 0, 0], [65535, 65535, 65535, 65535]]], np.uint16)
    data = tiff(rgba, 2, t338=[1])
    np.testing.assert_array_equal(read_picture(data, alpha="black"), to_8_bits(rgba[..., :3]))
    np.testing.assert_array_equal(
        read_picture(data, alpha="white"), to_8_bits(rgba[..., :3].astype(int) + 65535 - rgba[..., 3:])
    )


@pytest.mark.parametrize(
    "data",
    [
        save(Image.fromarray(gradient()[..., 0].astype(np.float32)), "TIFF"),
        save(Image.fromarray(gradient()[..., 0].astype(np.int32)), "TIFF"),
        save(Image.fromarray(gradient(), mode="LAB"), "TIFF"),
        tiff(deep(3), 2, t284=[2], t273=[8, 8 + 108, 8 + 216], t279=[108] * 3),  # separate planes of 16 bits
        tiff(gradient(), 6, t530=[2, 2]),  # chroma said to be subsampled
        tiff(gradient()[..., :1], 1, t339=[2]),  # signed
        b"\0\0\0\x20ftypavif" + bytes(100),
    ],
    ids=["float", "int32", "LAB", "planar16", "subsampled", "signed", "AVIF"],
)
def test_unsupported(data: bytes) -> None:
    assert error_class(data) == "unsupported"


# ---------------------------------------- alpha


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "WEBP"])
def test_opaque_alpha_is_dropped(file_format: str) -> None:
    pixels = gradient()
    rgba = np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])
    options = {"lossless": True} if file_format == "WEBP" else {}
    np.testing.assert_array_equal(read_picture(save(rgba, file_format, **options)), pixels)


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha(file_format: str, mode: str) -> None:
    colour = gradient() if mode == "RGBA" else gradient()[..., :1]
    weight = gradient()[..., 2:]
    data = save(Image.fromarray(np.concatenate([colour, weight], -1), mode=mode), file_format)
    assert error_class(data) == "transparent"
    for alpha, behind in (("white", 255), ("black", 0)):
        want = np.rint((colour.astype(float) * weight + behind * (255.0 - weight)) / 255)
        np.testing.assert_array_equal(
            read_picture(data, alpha=alpha),  # type: ignore[arg-type]
            np.broadcast_to(want, gradient().shape),
        )


@pytest.mark.parametrize("file_format", ["PNG", "GIF"])
def test_palette_with_a_transparent_entry(file_format: str) -> None:
    indices = np.arange(12, dtype=np.uint8).reshape(3, 4)
    palette = Image.fromarray(indices, mode="P")
    palette.putpalette([value for index in range(16) for value in (index * 10, 200 - index, 7)])
    data = save(palette, file_format, transparency=5)
    assert error_class(data) == "transparent"
    want = np.asarray(palette.convert("RGB")).copy()
    want[1, 1] = 255
    np.testing.assert_array_equal(read_picture(data, alpha="white"), want)
    unused = save(palette, file_format, transparency=14)  # no pixel has this colour
    assert read_picture(unused).shape == (3, 4, 3)


def test_palette_with_half_transparent_entries() -> None:
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), mode="P")
    palette.putpalette([100, 100, 100, 50, 60, 70])
    data = save(palette, "PNG", transparency=bytes([128, 255]))
    assert error_class(data) == "transparent"
    value = round((100 * 128 + 255 * 127) / 255)
    np.testing.assert_array_equal(read_picture(data, alpha="white")[0], [[value] * 3, [50, 60, 70]])


def test_colour_keys() -> None:
    pixels = gradient(4, 4)
    data = save(pixels, "PNG", transparency=tuple(int(value) for value in pixels[2, 1]))
    assert error_class(data) == "transparent"
    want = pixels.copy()
    want[2, 1] = 255
    np.testing.assert_array_equal(read_picture(data, alpha="white"), want)
    assert read_picture(save(pixels, "PNG", transparency=(1, 2, 3))).shape == (4, 4, 3)

    grey = np.arange(16, dtype=np.uint8).reshape(4, 4)
    result = read_picture(save(grey, "PNG", transparency=6), alpha="white")
    np.testing.assert_array_equal(result[..., 0], np.where(grey == 6, 255, grey))

    for colour_type, channels in ((0, 1), (2, 3)):
        samples = deep(channels)
        key = (b"tRNS", samples[3, 3].astype(">u2").tobytes())
        near = samples.copy()
        near[3, 3, 0] ^= 1  # equal to the key in the high byte only
        assert error_class(png16(samples, colour_type, key)) == "transparent"
        assert read_picture(png16(near, colour_type, key)).shape == (6, 9, 3)


# ---------------------------------------- orientation


EXACT: dict[str, dict[str, object]] = {"JPEG": {"quality": 98, "subsampling": 0}, "WEBP": {"lossless": True}}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "TIFF", "deep TIFF", "deep PNG"])
def test_orientation(file_format: str, orientation: int) -> None:
    upright = gradient(24, 40)
    # What a camera held this way would store, written out independently of the reader.
    stored = {
        1: upright,
        2: np.fliplr(upright),
        3: np.rot90(upright, 2),
        4: np.flipud(upright),
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    stored = np.ascontiguousarray(stored)
    exif = Image.Exif()
    exif[0x0112] = orientation
    if file_format == "deep TIFF":
        data = tiff(stored.astype(np.uint16) * 257, 2, t274=[orientation])
    elif file_format == "deep PNG":
        data = png16(stored.astype(np.uint16) * 257, 2, (b"eXIf", exif.tobytes()[6:]))
    else:
        data = save(stored, file_format, exif=exif, **EXACT.get(file_format, {}))
    result = read_picture(data)
    assert result.shape == upright.shape and result.flags.c_contiguous and result.flags.writeable
    np.testing.assert_allclose(result.astype(int), upright, atol=12 if file_format == "JPEG" else 0)
    np.testing.assert_array_equal(
        result, np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    )


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0"])
def test_broken_exif_does_not_cost_the_picture(exif: bytes) -> None:
    assert read_picture(save(gradient(), "JPEG", exif=exif)).shape == gradient().shape


# ---------------------------------------- what is refused


def test_empty_and_foreign_files() -> None:
    assert error_class(b"") == "empty"
    for text in (
        b"this is no picture\n",
        b"BM",
        b"P3 1 1 255 0 0 0",
        b"%PDF-1.7",
        bytes(1000),
        b"\xff\xd8\xff",
    ):
        assert error_class(text) in ("unreadable", "truncated")
    assert error_class(b"this is no picture\n") == "unreadable"


@pytest.mark.parametrize(
    "data",
    [
        png([], 100_000, 100_000, 8, 2),
        png([], 100_000, 100_000, 8, 2)[:33],  # the header alone
        png([], 70_000, 1, 8, 2),
        b"GIF89a" + struct.pack("<HH", 65535, 65535) + bytes(3) + b",",
        b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + b"\xff" * 6,
        b"BM" + bytes(12) + struct.pack("<IiiHH", 40, 50_000, 50_000, 1, 24) + bytes(24),
    ],
    ids=["PNG", "PNG header", "PNG side", "GIF", "WebP", "BMP"],
)
def test_huge_headers_cost_nothing(data: bytes) -> None:
    tracemalloc.start()
    try:
        assert error_class(data) == "too_large"
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_pixel_limit_can_be_chosen() -> None:
    data = save(gradient(40, 50), "JPEG")
    assert error_class(data, limits=PictureLimits(max_pixels=1999)) == "too_large"
    assert read_picture(data, limits=PictureLimits(max_pixels=2000)).shape == (40, 50, 3)


def test_a_picture_between_pillows_limit_and_ours_reads_without_a_warning(
    recwarn: pytest.WarningsRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for file_format in ("PNG", "JPEG", "BMP"):
        assert read_picture(save(gradient(), file_format)).shape == gradient().shape
    assert not recwarn.list


def test_messages_are_one_sentence_with_a_fix_and_travel_between_processes() -> None:
    with pytest.raises(PictureError) as caught:
        read_picture(save(gradient(), "PNG")[:-20])
    text = str(caught.value)
    assert "\n" not in text and text.endswith("copy the file again from its source.")
    copy = pickle.loads(pickle.dumps(caught.value))
    assert str(copy) == text and copy.error_class == "truncated"


# ---------------------------------------- damage


def samples_of_every_format() -> dict[str, bytes]:
    pixels = gradient(24, 30)
    rgb16 = pixels.astype(np.uint16) * 251
    return {
        "png": save(pixels, "PNG"),
        "png palette": save(Image.fromarray(pixels).quantize(16), "PNG"),
        "png 16 bit": png16(rgb16, 2),
        "jpeg": save(pixels, "JPEG"),
        "jpeg progressive": save(pixels, "JPEG", progressive=True),
        "jpeg cmyk": save(Image.fromarray(pixels).convert("CMYK"), "JPEG"),
        "webp": save(pixels, "WEBP"),
        "webp lossless": save(pixels, "WEBP", lossless=True, exif=b"Exif\0\0" + bytes(10)),
        "tiff": save(pixels, "TIFF"),
        "tiff, directory at the end": tiff(rgb16, 2, t274=[3], t339=[1, 1, 1]),
        "tiff deflate": save(pixels, "TIFF", compression="tiff_deflate"),
        "tiff lzw": save(pixels, "TIFF", compression="tiff_lzw"),
        "tiff jpeg": save(pixels, "TIFF", compression="jpeg"),
        "bmp": save(pixels, "BMP"),
        "gif": save(Image.fromarray(pixels).quantize(16), "GIF"),
    }


DAMAGED = samples_of_every_format()


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.filterwarnings("ignore")
def test_a_truncated_file_never_gives_a_part_of_the_picture(name: str) -> None:
    data = DAMAGED[name]
    whole = read_picture(data)
    cuts = {*range(1, 200), *range(max(1, len(data) - 200), len(data)), *range(1, len(data), 23)}
    for cut in sorted(cut for cut in cuts if cut < len(data)):
        try:
            part = read_picture(data[:cut])
        except PictureError as error:
            assert error.error_class in ("truncated", "unreadable", "unsupported"), f"cut at {cut}: {error}"
        else:
            np.testing.assert_array_equal(part, whole, err_msg=f"cut at {cut} of {len(data)}")


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.filterwarnings("ignore")
def test_flipped_bytes_give_an_array_or_a_picture_error(name: str) -> None:
    rng = np.random.default_rng(len(name))
    limits = PictureLimits(max_pixels=1_000_000)
    for _ in range(150):
        data = bytearray(DAMAGED[name])
        for _ in range(int(rng.integers(1, 4))):
            # Half of the damage goes into the headers, which have the more interesting bytes.
            end = len(data) if rng.random() < 0.5 else min(len(data), 120)
            data[int(rng.integers(0, end))] = int(rng.integers(0, 256))
        try:
            result = read_picture(bytes(data), alpha="white", limits=limits)
        except PictureError:
            continue
        assert result.dtype == np.uint8 and result.ndim == 3 and result.shape[2] == 3 and result.size


def test_a_png_with_missing_rows_is_truncated_even_when_it_is_well_formed() -> None:
    rows = [row.tobytes() for row in gradient()]
    assert error_class(png(rows[:20], 50, 40, 8, 2)) == "truncated"
    assert read_picture(png(rows, 50, 40, 8, 2)).shape == (40, 50, 3)


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
                np.testing.assert_array_equal(read_picture(data), gradient(height, width))
            else:
                assert error_class(data) == "truncated"


def test_a_png_with_a_damaged_pixel_is_noticed_by_its_checksum() -> None:
    data = bytearray(save(RNG.integers(0, 256, (40, 50, 3)).astype(np.uint8), "PNG", compress_level=0))
    data[len(data) // 2] ^= 1
    assert error_class(bytes(data)) == "unreadable"


def test_a_tiff_with_missing_strips_is_truncated() -> None:
    pixels = gradient()
    assert error_class(tiff(pixels, 2, t257=[80], t278=[40])) == "truncated"


# ---------------------------------------- PNG


def test_write_png_round_trip() -> None:
    for shape in ((1, 1, 3), (17, 5, 3)):
        pixels = RNG.integers(0, 256, shape).astype(np.uint8)
        np.testing.assert_array_equal(read_picture(write_png(pixels)), pixels)
    turned = gradient()[::-1].swapaxes(0, 1)
    np.testing.assert_array_equal(read_picture(write_png(turned)), turned)


@pytest.mark.parametrize(
    "pixels", [np.zeros((4, 4)), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)]
)
def test_write_png_refuses_other_arrays(pixels: np.ndarray) -> None:
    with pytest.raises(ValueError, match="height, width, 3"):
        write_png(pixels)
