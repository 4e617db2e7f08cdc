import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ncbatch.codec.bitstream import Bitstream, file_bytes, parse, serialise
from ncbatch.codec.decode import decode
from ncbatch.codec.encode import encode
from ncbatch.codec.errors import BitstreamError, WrongModelError
from ncbatch.codec.methods import METHODS, Amortized
from ncbatch.codec.model.hyperprior import Model

DIGEST = "0123456789abcdef"


def sealed(body: bytes) -> bytes:
    """A body with the checksum it needs: what a forger would write."""
    return body + zlib.crc32(body).to_bytes(4, "little")


@pytest.fixture(scope="module")
def small(model: Model, photograph: np.ndarray) -> bytes:
    """The file of a 24 x 40 image."""
    recipe = Amortized(lmbda=0.01)
    return encode(model, [photograph[100:124, 100:140]], recipe)[0].outcome.data


@given(
    st.sampled_from(METHODS),
    st.integers(1, 65535),
    st.integers(1, 65535),
    st.binary(max_size=400).map(lambda b: b[: len(b) // 4 * 4]),
    st.sampled_from([1, 2]),
)
def test_round_trip_and_header_size(
    method: str, width: int, height: int, payload: bytes, version: int
) -> None:
    stream = Bitstream(method, DIGEST, width, height, payload, version)
    data = serialise(stream)
    assert parse(data, max_pixels=2**32) == stream
    assert len(data) == file_bytes(width, height, len(payload) // 4)
    assert len(data) - len(payload) < 32


def test_new_files_are_of_version_two(small: bytes) -> None:
    assert small[3] == 2 and parse(small, max_pixels=10**6).coarse


def test_every_flipped_byte_is_one_error(model: Model, small: bytes) -> None:
    assert decode(model, small).shape == (24, 40, 3)
    for position in range(len(small)):
        for flip in (0x01, 0x80, 0xFF):
            damaged = bytearray(small)
            damaged[position] ^= flip
            with pytest.raises(BitstreamError):
                decode(model, bytes(damaged))


def test_every_shorter_and_longer_file_is_one_error(model: Model, small: bytes) -> None:
    for length in range(len(small)):
        with pytest.raises(BitstreamError):
            decode(model, small[:length])
    for extra in (b"\0", b"\0\0\0\0", small):
        with pytest.raises(BitstreamError):
            decode(model, small + extra)


def test_forged_headers_allocate_nothing(model: Model, small: bytes) -> None:
    huge = b"\xff\xff\x03"  # 65535 as LEB128
    head = small[:13]
    for body, message in [
        (head + huge + huge + b"\0", "more than the limit"),
        (head + b"\0" + huge + b"\0", "0 x 65535"),
        (head + b"\xff" * 5, "does not end"),
        (head + b"\xff\xff\xff\xff\x7f" + huge + b"\0", "claims an image"),
        (head + b"\x10\x10\xff\xff\x7f" + bytes(8), "payload length"),
        (b"NCB\x07" + small[4:13] + b"\x10\x10\0", "version 7"),
        (b"NCB\x01\xc8" + small[5:13] + b"\x10\x10\0", "method number 200"),
    ]:
        with pytest.raises(BitstreamError, match=message):
            decode(model, sealed(body))


def test_forged_payloads_give_an_image_or_one_error(model: Model, small: bytes) -> None:
    """Within the limits a forger may have any payload decoded; it must end, quietly."""
    stream = parse(small, max_pixels=10**6)
    for payload in (b"", b"\1\0\0\0", bytes(range(1, 65)), b"\xff" * 256):
        forged = serialise(Bitstream("sga", stream.model_digest, 300, 200, payload))
        try:
            image = decode(model, forged)
        except BitstreamError:
            continue
        assert image.shape == (200, 300, 3)


def test_other_models_files_are_refused(model: Model, small: bytes) -> None:
    stream = parse(small, max_pixels=10**6)
    other = serialise(Bitstream(stream.method, DIGEST, stream.width, stream.height, stream.payload))
    with pytest.raises(WrongModelError, match=DIGEST):
        decode(model, other)


def test_not_an_ncb_file(model: Model) -> None:
    for data in (b"", b"NC", b"\x89PNG\r\n\x1a\n" + bytes(100), b"hello"):
        with pytest.raises(BitstreamError, match="NCB"):
            decode(model, data)
