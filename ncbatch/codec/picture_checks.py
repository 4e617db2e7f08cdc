"""What is refused in a picture file before its pixels are decoded: size, damage, unreadable layouts."""

from __future__ import annotations

import struct
import zlib
from typing import Literal, cast

from PIL.TiffImagePlugin import TiffImageFile

from ncbatch.codec.limits import MAX_SIDE, PictureLimits
from ncbatch.errors import NcbatchError

ErrorClass = Literal["empty", "unreadable", "truncated", "unsupported", "too_large", "transparent"]

_FIX: dict[ErrorClass, str] = {
    "empty": "upload the file again",
    "unreadable": "open and save the picture again, or leave it out",
    "truncated": "copy the file again from its source",
    "unsupported": "convert it to an 8 or 16 bit RGB or grey PNG",
    "too_large": "scale or cut the picture, or raise the pixel limit where there is memory for it",
    "transparent": "choose what lies behind it with --alpha white or --alpha black",
}


class PictureError(NcbatchError):
    """One picture that cannot be read; `error_class` says which kind of trouble it is."""

    def __init__(self, error_class: ErrorClass, what: str) -> None:
        super().__init__(error_class, what)  # both, or the error could not be unpickled in another process
        self.error_class: ErrorClass = error_class
        self.what = what

    def __str__(self) -> str:
        return f"{self.what[:1].upper()}{self.what[1:]}; {_FIX[self.error_class]}."


def declared_size(data: bytes) -> tuple[int, int] | None:
    """The (width, height) of those formats whose Pillow class does more than read headers when it is made."""
    if data.startswith(b"\x89PNG") and len(data) >= 24:
        return cast("tuple[int, int]", struct.unpack_from(">II", data, 16))
    if data.startswith(b"GIF8") and len(data) >= 10:
        return cast("tuple[int, int]", struct.unpack_from("<HH", data, 6))
    if data[:4] == b"RIFF" and data[8:16] == b"WEBPVP8X" and len(data) >= 30:
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    return None


def check_size(size: tuple[int, int] | None, limits: PictureLimits) -> None:
    """Raise PictureError unless a picture of this (width, height) in pixels is within the limits."""
    if size is None:
        return
    width, height = size
    if max(width, height) > MAX_SIDE:
        raise PictureError("too_large", f"{width} x {height} pixels: no side may exceed {MAX_SIDE}")
    if width * height > limits.max_pixels:
        raise PictureError("too_large", f"{width} x {height} pixels: the limit is {limits.max_pixels} in all")


_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def check_png(data: bytes) -> None:
    """Check the checksums, and that all compressed rows are there: what is missing Pillow leaves black."""
    width, height, depth, colour_type, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    bits = depth * _PNG_CHANNELS[colour_type]
    want = 0
    for x, y, step_x, step_y in _ADAM7 if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - x) // step_x), -(-(height - y) // step_y)
        if columns > 0:
            want += rows * (1 + -(-columns * bits // 8))
    stream = zlib.decompressobj()
    held, start, kind = 0, 8, b""
    while kind != b"IEND":
        if start + 12 > len(data):
            raise PictureError("truncated", "the PNG file stops before its end marker")
        (length,) = struct.unpack_from(">I", data, start)
        end = start + 12 + length
        kind = data[start + 4 : start + 8]
        body = memoryview(data)[start + 8 : end - 4]
        if end > len(data):
            raise PictureError("truncated", f"the PNG file stops inside a {kind!r} chunk")
        # The pixels do not depend on ancillary chunks (lower case); viewers forgive damage there, so do we.
        critical = not kind[0] & 0x20
        if critical and zlib.crc32(body, zlib.crc32(kind)) != int.from_bytes(data[end - 4 : end], "big"):
            raise PictureError("unreadable", f"the PNG file has a wrong checksum in a {kind!r} chunk")
        rest: bytes | memoryview = body if kind == b"IDAT" else b""
        while rest and held < want and not stream.eof:
            held += len(stream.decompress(rest, 1 << 20))
            rest = stream.unconsumed_tail
        start = end
    if held < want:
        raise PictureError("truncated", f"the PNG file holds {held} of {want} bytes of pixels")


def check_tiff(data: bytes, picture: TiffImageFile) -> None:
    """Refuse what Pillow would read wrongly without a word."""
    order: Literal["little", "big"] = "little" if data.startswith(b"II") else "big"
    big = 43 in (data[2], data[3])
    first = int.from_bytes(data[8:16] if big else data[4:8], order)
    entries = int.from_bytes(data[first : first + (8 if big else 2)], order)
    if first + ((8 + 20 * entries) if big else (2 + 12 * entries)) > len(data):
        # Pillow goes on with the tags it has, and the missing ones say how the pixels are laid out.
        raise PictureError("truncated", "the TIFF file stops inside its directory")

    tags = picture.tag_v2
    planar = tags.get(284, 1) == 2
    sample_format = tags.get(339, (1,))
    if set(sample_format if isinstance(sample_format, tuple) else (sample_format,)) != {1}:
        raise PictureError("unsupported", "signed and floating-point TIFF samples have no defined white")
    if picture.mode in ("I", "F", "LAB"):
        raise PictureError("unsupported", f"TIFF pictures of mode {picture.mode} are not read")
    if planar and tiff_bits(picture) > 8 and picture.mode not in ("I;16", "I;16B"):
        raise PictureError("unsupported", "16 bit TIFF pictures with separate planes are not read")
    if picture.mode == "YCbCr" and tags.get(530, (2, 2)) != (1, 1):
        raise PictureError("unsupported", "uncompressed TIFF pictures with subsampled chroma are not read")
    area = sum(
        (x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (tile.extents for tile in picture.tile if tile.extents)
    )
    planes = len(picture.getbands()) if planar and picture.tile[0].codec_name == "raw" else 1
    if area < picture.width * picture.height * planes:
        raise PictureError("truncated", "the TIFF file lists too few strips for its height")


def tiff_bits(picture: TiffImageFile) -> int:
    """Bits per sample of the deepest channel."""
    bits = picture.tag_v2.get(258, (1,))
    return max(bits) if isinstance(bits, tuple) else bits
