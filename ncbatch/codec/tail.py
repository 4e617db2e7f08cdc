"""The tail of an `.ncb` file: what is carried along with the image.

    for each item:
        1 byte   kind (see `_KINDS`), with the highest bit set where the bytes are compressed by Deflate
        LEB128   number of bytes that follow
        bytes
    last 4       CRC-32 of the items, little-endian

Items of unknown kinds are passed over, so that later versions can add some.
"""

import zlib

from ncbatch.codec.errors import BitstreamError
from ncbatch.codec.leb128 import leb128, read_leb128
from ncbatch.images.carried import LARGEST, Carried

_KINDS = {1: "icc", 2: "exif", 3: "xmp", 4: "cicp", 5: "alpha"}
_COMPRESSED = {"alpha"}  # already
_DEFLATED = 0x80
_CHECKSUM = 4


def serialise(carried: Carried) -> bytes:
    """The bytes of a tail; none where nothing is carried."""
    items = bytearray()
    for kind, name in _KINDS.items():
        content: bytes = getattr(carried, name)
        if not content:
            continue
        packed = content if name in _COMPRESSED else zlib.compress(content, 9, wbits=-zlib.MAX_WBITS)
        if len(packed) < len(content):
            kind, content = kind | _DEFLATED, packed
        items += bytes([kind]) + leb128(len(content)) + content
    return bytes(items) + zlib.crc32(items).to_bytes(_CHECKSUM, "little") if items else b""


def parse(data: bytes) -> Carried:
    """What a tail holds. No more memory is taken than the bytes that are there, and `LARGEST`.

    Raises:
        BitstreamError: it is cut short or damaged.
    """
    items, checksum = data[:-_CHECKSUM], data[-_CHECKSUM:]
    if not items or zlib.crc32(items) != int.from_bytes(checksum, "little"):
        raise BitstreamError(
            "the checksum of what the file carries does not match: it is cut short or damaged; fetch it again"
        )
    found: dict[str, bytes] = {}
    position = 0
    while position < len(items):
        kind = items[position]
        length, start = read_leb128(items, position + 1)
        position = start + length
        if position > len(items):
            raise BitstreamError("what the file carries is longer than the file; it is damaged")
        name = _KINDS.get(kind & ~_DEFLATED)
        if name in found:
            raise BitstreamError(f"the file carries {name} twice; it is damaged")
        if name is not None:
            content = items[start:position]
            found[name] = _unpacked(content) if kind & _DEFLATED else content
    return Carried(**found)


def _unpacked(content: bytes) -> bytes:
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        unpacked = stream.decompress(content, LARGEST)
    except zlib.error as error:
        raise BitstreamError("what the file carries does not unpack; it is damaged") from error
    if not stream.eof or stream.unused_data:
        raise BitstreamError("what the file carries does not unpack to its end; it is damaged or too large")
    return unpacked
