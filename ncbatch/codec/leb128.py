"""Numbers of any size in bytes: LEB128."""

from ncbatch.codec.errors import BitstreamError


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
