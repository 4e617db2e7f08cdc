"""What stands in a PNG file's chunks and libvips does not tell."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from ncbatch.images.carried import cicp_of_rgb


def chunks_before_pixels(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and body of the chunks in front of the pixels, as far as the file goes."""
    start = 8
    while start + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, start)
        kind, end = data[start + 4 : start + 8], start + 12 + length
        if kind == b"IDAT" or end > len(data):
            return
        yield kind, data[start + 8 : end - 4]
        start = end


def cicp_and_frames(data: bytes) -> tuple[bytes, int, bool]:
    """The colour space that four numbers state, how many frames there are, and whether a colour profile is.

    Returns:
        the four numbers, or nothing where they mean sRGB; 1 for a file without animation.
    """
    cicp, frames, profile = b"", 1, False
    for kind, body in chunks_before_pixels(data):
        if kind == b"cICP" and len(body) == 4:
            cicp = cicp_of_rgb(body[0], body[1])
        elif kind == b"acTL" and len(body) == 8:
            frames = max(int.from_bytes(body[:4], "big"), 1)
        elif kind == b"iCCP":
            profile = True
    return cicp, frames, profile
