"""What AVIF, HEIC, JPEG 2000 and JPEG XL files say at their beginning, and their decoders do not tell."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Literal

from ncbatch.images.carried import cicp_of_rgb

Kind = Literal["AVIF", "HEIC", "JPEG 2000", "JPEG XL"]

_JP2 = b"\0\0\0\x0cjP  \r\n\x87\n"
_JXL = b"\0\0\0\x0cJXL \r\n\x87\n"
_J2K, _JXL_CODESTREAM = b"\xff\x4f\xff\x51", b"\xff\x0a"
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))  # of JPEG XL: width to height


def kind_of(head: bytes) -> Kind | None:
    """Which of these formats the first bytes of a file state."""
    if head.startswith((_JP2, _J2K)):
        return "JPEG 2000"
    if head.startswith((_JXL, _JXL_CODESTREAM)):
        return "JPEG XL"
    if head[4:8] != b"ftyp":
        return None
    brands = {head[8:12], *_brands(head)}
    if brands & {b"avif", b"avis"}:
        return "AVIF"
    return "HEIC" if brands & _HEIC_BRANDS else None


def is_sequence(head: bytes) -> bool:
    """Whether an AVIF or HEIC file says that it is a sequence of frames."""
    return bool({head[8:12], *_brands(head)} & {b"avis", b"msf1", b"hevc", b"hevx"})


def _brands(head: bytes) -> list[bytes]:
    end = min(int.from_bytes(head[:4], "big"), 128)
    return [head[at : at + 4] for at in range(16, end, 4)]


def size_in(head: bytes) -> tuple[int, int] | None:
    """Width and height that the first bytes of a file of these formats state; None where they do not.

    Of an AVIF or HEIC file it is that of its largest item as it is coded, which may be cut by a few pixels;
    those beside it are tiles, thumbnails and masks.
    """
    kind = kind_of(head)
    if kind == "JPEG XL":
        return _jxl_size(head)
    if kind == "JPEG 2000":
        at = head.find(_J2K)
        if at < 0 or len(head) < at + 24:
            return None
        right, below, left, above = struct.unpack_from(">IIII", head, at + 8)
        return right - left, below - above
    sizes = [struct.unpack_from(">II", head, at + 8) for at in _found(head, b"ispe") if at + 16 <= len(head)]
    return max(sizes, key=lambda size: size[0] * size[1], default=None)


def _found(data: bytes, mark: bytes) -> Iterator[int]:
    at = data.find(mark)
    while at >= 0:
        yield at
        at = data.find(mark, at + 1)


def _jxl_size(head: bytes) -> tuple[int, int] | None:
    at = 0
    if head.startswith(_JXL):
        at = -1
        for mark, skipped in ((b"jxlc", 4), (b"jxlp", 8)):
            found = head.find(mark)
            if found >= 0:
                at = found + skipped
                break
    if at < 0 or head[at : at + 2] != _JXL_CODESTREAM:
        return None
    bits = int.from_bytes(head[at + 2 : at + 14], "little")

    def take(count: int) -> int:
        nonlocal bits
        value, bits = bits & ((1 << count) - 1), bits >> count
        return value

    small = take(1)

    def side() -> int:
        return 8 * (1 + take(5)) if small else 1 + take((9, 13, 18, 30)[take(2)])

    height = side()
    ratio = take(3)
    across, down = _RATIOS[ratio - 1] if ratio else (0, 1)
    return (height * across // down if ratio else side()), height


def colour_space(data: bytes) -> bytes:
    """The colour space that four numbers in an AVIF or HEIC file state; empty where they mean sRGB."""
    at = data.find(b"colrnclx")
    if at < 0 or at + 12 > len(data):
        return b""
    primaries, transfer = struct.unpack_from(">HH", data, at + 8)
    return cicp_of_rgb(primaries, transfer)


def avif_depth(data: bytes) -> int:
    """Bits of a sample of an AVIF file."""
    at = data.find(b"av1C")
    flags = data[at + 6] if 0 <= at < len(data) - 6 else 0
    return (12 if flags & 0x20 else 10) if flags & 0x40 else 8


def jpeg_2000_components(data: bytes) -> list[tuple[int, bool]]:
    """Bits of the samples of each component of a JPEG 2000 file, and whether they are signed."""
    at = data.find(_J2K)
    if at < 0 or len(data) < at + 42:
        return []
    (count,) = struct.unpack_from(">H", data, at + 40)
    sizes = data[at + 42 : at + 42 + 3 * count : 3]
    return [((size & 0x7F) + 1, size > 0x7F) for size in sizes]


def jpeg_2000_profile(data: bytes) -> bytes:
    """The colour profile in a JPEG 2000 file; empty where there is none."""
    for at in _found(data[: max(data.find(_J2K), 0)], b"colr"):
        (length,) = struct.unpack_from(">I", data, at - 4)
        if length > 11 and data[at + 4] in (2, 3):
            return data[at + 7 : at - 4 + length]
    return b""
