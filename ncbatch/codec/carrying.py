"""Encodings of which the file carries something beside the image."""

from __future__ import annotations

from dataclasses import replace

from ncbatch.codec import bitstream
from ncbatch.codec.encode import Encoded
from ncbatch.codec.errors import BitstreamError, DecodeCheckError
from ncbatch.codec.measure import Baseline
from ncbatch.codec.target import Measured
from ncbatch.images.carried import Carried

_BITS = 8


def carrying(encoded: Encoded, carried: Carried) -> Encoded:
    """An encoding whose file carries something along; rates count it, those of the baseline as well.

    Raises:
        DecodeCheckError: the file does not say what it is to carry.
    """
    if not carried:
        return encoded
    data, limit = encoded.outcome.data, encoded.width * encoded.height
    stream = bitstream.parse(data, max_pixels=limit)
    whole = bitstream.serialise(replace(stream, carried=carried))
    if bitstream.parse(whole, max_pixels=limit) != replace(stream, carried=carried):
        raise DecodeCheckError("what the file carries does not come back as it was")
    return _with_file(encoded, whole)


def without_carried(data: bytes, carried: Carried, max_pixels: int) -> bytes | None:
    """The file of the image alone; None for what is no such file, or carries something else."""
    try:
        stream = bitstream.parse(data, max_pixels=max_pixels)
    except BitstreamError:
        return None
    if stream.carried != carried:
        return None
    return bitstream.serialise(replace(stream, carried=Carried())) if carried else data


def found_carrying(encoded: Encoded, data: bytes) -> Encoded:
    """The encoding in a file that was found, which carries what `without_carried` took away."""
    return encoded if len(data) == len(encoded.outcome.data) else _with_file(encoded, data)


def _with_file(encoded: Encoded, data: bytes) -> Encoded:
    more = len(data) - len(encoded.outcome.data)
    bpp = _BITS * more / (encoded.width * encoded.height)
    outcome = replace(encoded.outcome, data=data, rd_loss=encoded.outcome.loss + bpp)
    alone = encoded.amortized
    amortized = alone and Baseline(alone.bytes + more, alone.mse, alone.rd_loss + bpp)
    measured = Measured(len(data), encoded.width * encoded.height, outcome.psnr, encoded.ms_ssim)
    sought = encoded.sought and encoded.sought.measured_again(measured)
    return replace(encoded, outcome=outcome, amortized=amortized, sought=sought, tail_bytes=more)
