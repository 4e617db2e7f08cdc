"""The `.ncb` file: header, one ANS payload, checksum.

    bytes 0..2   "NCB"
    byte  3      version, 2; in version 1, sigma is not coarse (see `gaussian_tables.coarse`)
    byte  4      method (see METHODS); tells how the latents were found, decoding does not depend on it
    bytes 5..12  first 8 bytes of the model's digest
    LEB128       width, height, payload length in 32-bit words
    payload      little-endian 32-bit words
    last 4       CRC-32 of everything before, little-endian

Header and checksum together take at most 30 bytes. The payload is a stack: y was pushed first, then z.
"""

import zlib
from dataclasses import dataclass

from ncbatch.codec.errors import BitstreamError
from ncbatch.codec.methods import LEARNED
from ncbatch.images.limits import MAX_SIDE

MAGIC = b"NCB"
PACK_MAGIC = b"NCP"
"""Of packs, which are read elsewhere."""
VERSION = 2
EXACT_VERSION = 1
"""Codes with sigma as it is. Still read, no longer written."""
METHODS = {kind.number: method for method, kind in LEARNED.items()}
"""Names by their number in the file."""

_DIGEST_BYTES = 8
_FIXED = len(MAGIC) + 2 + _DIGEST_BYTES
_CHECKSUM = 4


@dataclass(frozen=True)
class Bitstream:
    """A parsed file.

    Attributes:
        method: by name.
        model_digest: the model's short digest, hexadecimal.
        width: in pixels.
        height: in pixels.
        payload: of the entropy coder.
        version: of the format.
    """

    method: str
    model_digest: str
    width: int
    height: int
    payload: bytes
    version: int = VERSION

    @property
    def coarse(self) -> bool:
        """Whether y is coded with coarse standard deviations."""
        return self.version != EXACT_VERSION


def short_digest(digest: str) -> str:
    """The part of a model's digest (hex) that a file names."""
    return digest[: 2 * _DIGEST_BYTES]


def leb128(value: int) -> bytes:
    """A number in groups of seven bits, the lowest first."""
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def read_leb128(data: bytes, position: int) -> tuple[int, int]:
    """A number below 2**35, and the position behind it.

    Raises:
        BitstreamError: the number does not end.
    """
    value = 0
    for shift in (0, 7, 14, 21, 28):
        if position >= len(data):
            break
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise BitstreamError("the header is damaged: it holds a number that does not end")


def serialise(stream: Bitstream) -> bytes:
    """The bytes of a file. The payload's length must be a multiple of four."""
    body = b"".join(
        [
            MAGIC,
            bytes([stream.version, LEARNED[stream.method].number]),
            bytes.fromhex(stream.model_digest),
            leb128(stream.width),
            leb128(stream.height),
            leb128(len(stream.payload) // 4),
            stream.payload,
        ]
    )
    return body + zlib.crc32(body).to_bytes(_CHECKSUM, "little")


def file_bytes(width: int, height: int, words: int) -> int:
    """The length of a file whose payload has so many 32-bit words."""
    numbers = b"".join(leb128(number) for number in (width, height, words))
    return _FIXED + len(numbers) + 4 * words + _CHECKSUM


def parse(data: bytes, *, max_pixels: int) -> Bitstream:
    """Reads a file.

    Nothing that the header says is allocated before the checksum and the limits have been checked.

    Args:
        data: the file's bytes.
        max_pixels: refuses larger images.

    Raises:
        BitstreamError: the bytes are not a whole, sane `.ncb` file.
    """
    if data[: len(PACK_MAGIC)] == PACK_MAGIC:
        raise BitstreamError(
            "not an .ncb file but a pack, .ncbp, of several images; `ncbatch decode` takes it, from a file "
            "of that name"
        )
    if data[: len(MAGIC)] != MAGIC:
        raise BitstreamError("not an .ncb file: it does not start with NCB")
    if len(data) < _FIXED + _CHECKSUM:
        raise BitstreamError(f"cut short: {len(data)} bytes cannot hold a header")
    version = data[len(MAGIC)]
    if version not in (EXACT_VERSION, VERSION):
        raise BitstreamError(f".ncb version {version} is unknown here; upgrade ncbatch")
    body, checksum = data[:-_CHECKSUM], data[-_CHECKSUM:]
    if zlib.crc32(body) != int.from_bytes(checksum, "little"):
        raise BitstreamError("the checksum does not match: the file is cut short or damaged; fetch it again")
    method = data[len(MAGIC) + 1]
    if method not in METHODS:
        raise BitstreamError(f"method number {method} is unknown here; upgrade ncbatch")
    width, position = read_leb128(body, _FIXED)
    height, position = read_leb128(body, position)
    words, position = read_leb128(body, position)
    check_size(width, height, max_pixels)
    if len(body) - position != 4 * words:
        raise BitstreamError("the header's payload length is not the file's; the file is damaged")
    digest = data[len(MAGIC) + 2 : _FIXED].hex()
    return Bitstream(METHODS[method], digest, width, height, body[position:], version)


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Checks the size that a header states.

    Raises:
        BitstreamError: no image has this size, or it is over the limit.
    """
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
        raise BitstreamError(f"the header claims an image of {width} x {height}; the file is damaged")
    if width * height > max_pixels:
        raise BitstreamError(
            f"the image has {width} x {height} pixels, more than the limit of {max_pixels:,}; "
            "raise it with --max-pixels if you trust the file"
        )
