"""Reading images: real pixel values, alpha, every orientation, limits and messages."""

import io
import pickle

import numpy as np
import pytest
from PIL import Image, ImageOps

from ncbatch.images.checks import ImageError
from ncbatch.images.limits import ImageLimits
from ncbatch.images.read import read_image
from tests.images.image_files import error_class, gradient, png16, save, tiff


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
    result = read_image(save(pixels, file_format, **options))
    assert result.dtype == np.uint8
    assert result.flags.c_contiguous and result.flags.writeable
    np.testing.assert_array_equal(result, pixels)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_jpeg(options: dict[str, object]) -> None:
    pixels = gradient()
    result = read_image(save(pixels, "JPEG", quality=98, **options))
    assert result.shape == pixels.shape
    assert np.abs(result.astype(int) - pixels).mean() < 4


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (3, 2), (65, 63)])
@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"])
def test_every_size(size: tuple[int, int], file_format: str) -> None:
    pixels = np.full((*size, 3), 128, np.uint8)
    result = read_image(save(pixels, file_format))
    assert result.shape == pixels.shape
    assert np.abs(result.astype(int) - 128).max() <= 2


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "BMP", "GIF", "JPEG"])
def test_grey(file_format: str) -> None:
    grey = gradient()[..., 0]
    result = read_image(save(grey, file_format, **({"quality": 100} if file_format == "JPEG" else {})))
    np.testing.assert_allclose(result.astype(int), np.repeat(grey[..., None], 3, -1), atol=2)


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "BMP", "GIF"])
def test_one_bit(file_format: str) -> None:
    black_white = gradient()[..., 0] > 100
    result = read_image(save(Image.fromarray(black_white), file_format))
    np.testing.assert_array_equal(result, np.repeat(black_white[..., None] * np.uint8(255), 3, -1))


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "BMP", "GIF"])
def test_palette(file_format: str) -> None:
    palette = Image.fromarray(gradient()).quantize(37)
    result = read_image(save(palette, file_format))
    np.testing.assert_array_equal(result, np.asarray(palette.convert("RGB")))


def test_gif_gives_its_first_frame() -> None:
    frames = [Image.fromarray(np.full((9, 11, 3), value, np.uint8)) for value in (10, 200)]
    data = save(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert Image.open(io.BytesIO(data)).n_frames == 2  # type: ignore[attr-defined]
    np.testing.assert_array_equal(read_image(data), np.full((9, 11, 3), 10, np.uint8))


def test_animated_webp_and_png_give_their_first_frame() -> None:
    frames = [Image.fromarray(np.full((16, 16, 3), value, np.uint8)) for value in (10, 200)]
    for file_format in ("WEBP", "PNG"):
        data = save(frames[0], file_format, save_all=True, append_images=frames[1:], lossless=True)
        assert int(read_image(data).max()) == 10


def test_multi_picture_jpeg_gives_its_first() -> None:
    pixels = gradient()
    data = save(pixels, "MPO", save_all=True, append_images=[Image.fromarray(pixels[::-1])], quality=98)
    assert np.abs(read_image(data).astype(int) - pixels).mean() < 4


def test_cmyk_jpeg_is_not_a_negative() -> None:
    pixels = gradient()
    result = read_image(save(Image.fromarray(pixels).convert("CMYK"), "JPEG", quality=98))
    assert np.abs(result.astype(int) - pixels).mean() < 5


@pytest.mark.parametrize(
    "data",
    [
        save(Image.fromarray(gradient()[..., 0].astype(np.float32)), "TIFF"),
        save(Image.fromarray(gradient()[..., 0].astype(np.int32)), "TIFF"),
        save(Image.fromarray(gradient(), mode="LAB"), "TIFF"),
        tiff(gradient()[..., :1], 1, t339=[2]),  # signed
        b"\0\0\0\x20ftypcrx " + bytes(100),
    ],
    ids=["float", "int32", "LAB", "signed", "camera raw"],
)
def test_unsupported(data: bytes) -> None:
    assert error_class(data) == "unsupported"


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "WEBP"])
def test_opaque_alpha_is_dropped(file_format: str) -> None:
    pixels = gradient()
    rgba = np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])
    options = {"lossless": True} if file_format == "WEBP" else {}
    np.testing.assert_array_equal(read_image(save(rgba, file_format, **options)), pixels)


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
            read_image(data, alpha=alpha),  # type: ignore[arg-type]
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
    np.testing.assert_array_equal(read_image(data, alpha="white"), want)
    unused = save(palette, file_format, transparency=14)  # no pixel has this colour
    assert read_image(unused).shape == (3, 4, 3)


def test_palette_with_half_transparent_entries() -> None:
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), mode="P")
    palette.putpalette([100, 100, 100, 50, 60, 70])
    data = save(palette, "PNG", transparency=bytes([128, 255]))
    assert error_class(data) == "transparent"
    value = round((100 * 128 + 255 * 127) / 255)
    np.testing.assert_array_equal(read_image(data, alpha="white")[0], [[value] * 3, [50, 60, 70]])


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
    result = read_image(data)
    assert result.shape == upright.shape and result.flags.c_contiguous and result.flags.writeable
    np.testing.assert_allclose(result.astype(int), upright, atol=12 if file_format == "JPEG" else 0)
    np.testing.assert_array_equal(
        result, np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    )


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0"])
def test_broken_exif_does_not_cost_the_image(exif: bytes) -> None:
    assert read_image(save(gradient(), "JPEG", exif=exif)).shape == gradient().shape


def test_pixel_limit_can_be_chosen() -> None:
    data = save(gradient(40, 50), "JPEG")
    assert error_class(data, limits=ImageLimits(max_pixels=1999)) == "too_large"
    assert read_image(data, limits=ImageLimits(max_pixels=2000)).shape == (40, 50, 3)


def test_an_image_between_pillows_limit_and_ours_reads_without_a_warning(
    recwarn: pytest.WarningsRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for file_format in ("PNG", "JPEG", "BMP"):
        assert read_image(save(gradient(), file_format)).shape == gradient().shape
    assert not recwarn.list


def test_messages_are_one_sentence_with_a_fix_and_travel_between_processes() -> None:
    with pytest.raises(ImageError) as caught:
        read_image(save(gradient(), "PNG")[:-20])
    text = str(caught.value)
    assert "\n" not in text and text.endswith("copy the file again from its source")
    copy = pickle.loads(pickle.dumps(caught.value))
    assert str(copy) == text and copy.error_class == "truncated"
