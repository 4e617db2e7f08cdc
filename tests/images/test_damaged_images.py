"""Files that are cut off, flipped or foreign: an image comes out whole, or a ImageError says why not."""

import resource
import struct

import numpy as np
import pytest
from PIL import Image

from ncbatch.images.checks import ImageError
from ncbatch.images.limits import ImageLimits
from ncbatch.images.read import read_image
from tests.images.image_files import error_class, gradient, png, png16, save, tiff


def test_empty_and_foreign_files() -> None:
    assert error_class(b"") == "empty"
    for text in (
        b"this is no image\n",
        b"BM",
        b"P3 1 1 255 0 0 0",
        b"%PDF-1.7",
        bytes(1000),
        b"\xff\xd8\xff",
    ):
        assert error_class(text) in ("unreadable", "truncated")
    assert error_class(b"this is no image\n") == "unreadable"


def gif_of_size(width: int, height: int) -> bytes:
    """A GIF whose only frame is far smaller than its canvas, and whole."""
    frame = save(Image.fromarray(gradient(4, 4)).quantize(4), "GIF")
    return frame[:6] + struct.pack("<HH", width, height) + frame[10:]


def jpeg_of_size(width: int, height: int) -> bytes:
    """A JPEG whose header says other sizes than its coded data hold."""
    data = save(gradient(), "JPEG")
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


@pytest.mark.parametrize(
    "data",
    [
        png([], 100_000, 100_000, 8, 2),
        png([], 100_000, 100_000, 8, 2)[:33],  # the header alone
        png([], 70_000, 1, 8, 2),
        png([], 9_000, 9_000, 8, 2),  # within the limits, but there is nothing behind it
        gif_of_size(65535, 65535),
        b"GIF89a" + struct.pack("<HH", 65535, 65535) + bytes(3) + b",",
        b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + b"\xff" * 6,
        b"BM" + bytes(12) + struct.pack("<IiiHH", 40, 50_000, 50_000, 1, 24) + bytes(24),
        tiff(gradient(), 2, t256=[50_000], t257=[50_000]),
        tiff(gradient(), 2, t256=[9_000], t257=[9_000], t278=[9_000]),
        jpeg_of_size(60_000, 60_000),
    ],
    ids=[
        *("PNG", "PNG header", "PNG side", "PNG within", "GIF", "GIF header", "WebP", "BMP"),
        *("TIFF", "TIFF within", "JPEG"),
    ],
)
def test_huge_headers_cost_nothing(data: bytes) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ImageError):
        read_image(data)
    # In kilobytes, of all that the process ever held, which libraries in C have their part in.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30_000


@pytest.mark.parametrize(
    "data",
    [png([], 100_000, 100_000, 8, 2), png([], 70_000, 1, 8, 2), gif_of_size(65535, 65535)],
    ids=["PNG", "PNG side", "GIF"],
)
def test_what_a_header_says_is_held_against_the_limits(data: bytes) -> None:
    assert error_class(data) == "too_large"


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
def test_a_truncated_file_never_gives_a_part_of_the_image(name: str) -> None:
    data = DAMAGED[name]
    whole = read_image(data)
    cuts = {*range(1, 200), *range(max(1, len(data) - 200), len(data)), *range(1, len(data), 23)}
    for cut in sorted(cut for cut in cuts if cut < len(data)):
        try:
            part = read_image(data[:cut])
        except ImageError as error:
            assert error.error_class in ("truncated", "unreadable", "unsupported"), f"cut at {cut}: {error}"
        else:
            np.testing.assert_array_equal(part, whole, err_msg=f"cut at {cut} of {len(data)}")


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.filterwarnings("ignore")
def test_flipped_bytes_give_an_array_or_an_image_error(name: str) -> None:
    rng = np.random.default_rng(len(name))
    limits = ImageLimits(max_pixels=1_000_000)
    for _ in range(150):
        data = bytearray(DAMAGED[name])
        for _ in range(int(rng.integers(1, 4))):
            # Half of the damage goes into the headers, which have the more interesting bytes.
            end = len(data) if rng.random() < 0.5 else min(len(data), 120)
            data[int(rng.integers(0, end))] = int(rng.integers(0, 256))
        try:
            result = read_image(bytes(data), alpha="white", limits=limits)
        except ImageError:
            continue
        assert result.dtype == np.uint8 and result.ndim == 3 and result.shape[2] == 3 and result.size
