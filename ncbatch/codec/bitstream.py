"""The `.ncb` file: header, one ANS payload, checksum.

    bytes 0..2   "NCB"
    byte  3      version: 2, or 3 where a tail follows (see `codec.tail`); in version 1, sigma is not coarse
                 (see `gaussian_tables.coarse`)
    byte  4      method (see METHODS); tells how the latents were found, decoding does not depend on it
    bytes 5..12  first 8 bytes of the model's digest
    LEB128       width, height, payload length in 32-bit words
    payload      little-endian 32-bit words
    4 bytes      CRC-32 of everything before, little-endian; the file ends here, but for the tail

Header and checksum together take at most 30 bytes. The payload is a stack: y was pushed first, then z.
"""

import zlib
from dataclasses import dataclass, field

from ncbatch.codec import tail
from ncbatch.codec.errors import BitstreamError
from ncbatch.codec.leb128 import leb128, read_leb128
from ncbatch.codec.methods import LEARNED
from ncbatch.images.carried import Carried
from ncbatch.images.limits import MAX_SIDE

MAGIC = b"NCB"
PACK_MAGIC = b"NCP"
"""Of packs, which are read elsewhere."""
VERSION = 2
TAIL_VERSION = 3
"""Of files with a tail. Their other parts are as in version 2, and a decoder of version 2 refuses them."""
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
        version: of the format, apart from the tail.
        carried: what is in the tail; empty without one.
    """

    method: str
    model_digest: str
    width: int
    height: int
    payload: bytes
    version: int = VERSION
    carried: Carried = field(default_factory=Carried)

    @property
    def coarse(self) -> bool:
        """Whether y is coded with coarse standard deviations."""
        return self.version != EXACT_VERSION


def short_digest(digest: str) -> str:
    """The part of a model's digest (hex) that a file names."""
    return digest[: 2 * _DIGEST_BYTES]


def serialise(stream: Bitstream) -> bytes:
    """The bytes of a file. The payload's length must be a multiple of four."""
    version = TAIL_VERSION if stream.carried else stream.version
    body = b"".join(
        [
            MAGIC,
            bytes([version, LEARNED[stream.method].number]),
            bytes.fromhex(stream.model_digest),
            leb128(stream.width),
            leb128(stream.height),
            leb128(len(stream.payload) // 4),
            stream.payload,
        ]
    )
    return body + zlib.crc32(body).to_bytes(_CHECKSUM, "little") + tail.serialise(stream.carried)


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
    if version not in (EXACT_VERSION, VERSION, TAIL_VERSION):
        raise BitstreamError(f".ncb version {version} is unknown here; upgrade ncbatch")
    end = _end(data) if version == TAIL_VERSION else len(data) - _CHECKSUM
    body, behind = data[:end], data[end + _CHECKSUM :]
    if zlib.crc32(body) != int.from_bytes(data[end : end + _CHECKSUM], "little"):
        raise BitstreamError("the checksum does not match: the file is cut short or damaged; fetch it again")
    method = data[len(MAGIC) + 1]
    if method not in METHODS:
        raise BitstreamError(f"method number {method} is unknown here; upgrade ncbatch")
    width, height, words, position = _numbers(body)
    check_size(width, height, max_pixels)
    if len(body) - position != 4 * words:
        raise BitstreamError("the header's payload length is not the file's; the file is damaged")
    digest = data[len(MAGIC) + 2 : _FIXED].hex()
    carried = Carried()
    if version == TAIL_VERSION:
        version, carried = VERSION, tail.parse(behind)
    return Bitstream(METHODS[method], digest, width, height, body[position:], version, carried)


def _numbers(data: bytes) -> tuple[int, int, int, int]:
    """Width, height and words of the payload as the header has them, and the position behind them."""
    width, position = read_leb128(data, _FIXED)
    height, position = read_leb128(data, position)
    words, position = read_leb128(data, position)
    return width, height, words, position


def _end(data: bytes) -> int:
    """Where the checksum of the image begins, if the header of a file with a tail is right."""
    words, position = _numbers(data)[2:]
    return min(position + 4 * words, len(data))


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
