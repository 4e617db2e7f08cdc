"""What is carried along with an image, in the tail of its file."""

from __future__ import annotations

import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ncbatch.codec import tail
from ncbatch.codec.bitstream import Bitstream, parse, serialise
from ncbatch.codec.carrying import carrying, found_carrying, without_carried
from ncbatch.codec.decode import decode
from ncbatch.codec.encode import Encoded, encode
from ncbatch.codec.errors import BitstreamError
from ncbatch.codec.leb128 import leb128
from ncbatch.codec.methods import Amortized
from ncbatch.codec.model.hyperprior import Model
from ncbatch.codec.target import Measured, Sought, Target
from ncbatch.images.alpha_plane import coded_plane
from ncbatch.images.carried import LARGEST, Carried

PLANE = (np.indices((24, 40)).sum(0) * 5 % 256).astype(np.uint8)
CARRIED = Carried(
    bytes(range(200)), b"II*\0" + bytes(40), b"<x/>" * 30, bytes([9, 16, 0, 1]), coded_plane(PLANE)
)
SOME = st.binary(max_size=50)


@pytest.fixture(scope="module")
def small(model: Model, photograph: np.ndarray) -> Encoded:
    return encode(model, [photograph[100:124, 100:140]], Amortized(lmbda=0.01))[0]


@given(SOME, SOME, SOME, st.sampled_from([b"", b"abcd"]))
def test_it_comes_back(icc: bytes, exif: bytes, xmp: bytes, cicp: bytes) -> None:
    carried = Carried(icc, exif * 20, xmp, cicp)
    data = tail.serialise(carried)
    assert bool(data) == bool(carried)
    assert not data or tail.parse(data) == carried
    stream = Bitstream("sga", "0123456789abcdef", 7, 9, b"abcd", carried=carried)
    assert parse(serialise(stream), max_pixels=100) == stream
    assert serialise(stream)[3] == (3 if carried else 2)


def test_the_image_is_what_it_is_without(model: Model, small: Encoded) -> None:
    whole = carrying(small, CARRIED)
    alone, data = small.outcome.data, whole.outcome.data
    # Its file with a tail is the one without, but for the version and the checksum over it.
    assert (data[3], alone[3]) == (3, 2)
    assert data[:3] + b"\2" + data[4 : len(alone) - 4] == alone[:-4]
    decoded = decode(model, data)
    np.testing.assert_array_equal(decoded[..., :3], decode(model, alone))
    np.testing.assert_array_equal(decoded[..., 3], PLANE)
    assert parse(data, max_pixels=10**4).carried == CARRIED
    assert carrying(small, Carried()) is small and small.tail_bytes == 0


def test_rates_count_it(small: Encoded) -> None:
    whole = carrying(small, CARRIED)
    more = len(whole.outcome.data) - len(small.outcome.data)
    assert whole.tail_bytes == more == len(tail.serialise(CARRIED))
    assert small.amortized is not None and whole.amortized is not None
    pixels = whole.width * whole.height
    assert whole.outcome.loss == pytest.approx(small.outcome.loss + 8 * more / pixels)
    assert whole.amortized.bytes == small.amortized.bytes + more
    assert whole.amortized.rd_loss - small.amortized.rd_loss == pytest.approx(8 * more / pixels)


def test_a_target_for_the_file_counts_it(small: Encoded) -> None:
    length = len(small.outcome.data)
    measured = Measured(length, small.width * small.height, small.outcome.psnr, small.ms_ssim)
    asking = replace(small, sought=Sought.of(Target("bytes", length), measured, "digest", 0.01, 3))
    whole = carrying(asking, CARRIED)
    assert asking.sought is not None and asking.sought.met
    assert whole.sought == replace(asking.sought, came=float(len(whole.outcome.data)), met=False)
    quality = replace(small, sought=Sought.of(Target("psnr", 30.0), measured, "digest", 0.01, 3))
    assert carrying(quality, CARRIED).sought == quality.sought


def test_a_file_that_was_found_is_known_by_what_it_carries(small: Encoded) -> None:
    data = carrying(small, CARRIED).outcome.data
    assert without_carried(data, CARRIED, 10**4) == small.outcome.data
    assert without_carried(data, Carried(), 10**4) is None
    assert without_carried(data, replace(CARRIED, xmp=b"other"), 10**4) is None
    assert without_carried(b"NCB", CARRIED, 10**4) is None
    assert found_carrying(small, data) == carrying(small, CARRIED)


def test_every_damage_is_one_error(small: Encoded) -> None:
    data = carrying(small, CARRIED).outcome.data
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 0x41
        with pytest.raises(BitstreamError):
            parse(bytes(damaged), max_pixels=10**4)
    for length in range(len(data)):
        with pytest.raises(BitstreamError):
            parse(data[:length], max_pixels=10**4)
    with pytest.raises(BitstreamError):
        parse(data + b"\0", max_pixels=10**4)


def _deflated(content: bytes) -> bytes:
    return zlib.compress(content, 9, wbits=-15)


def _item(kind: int, content: bytes, length: int | None = None) -> bytes:
    return bytes([kind]) + leb128(len(content) if length is None else length) + content


@pytest.mark.parametrize(
    "items",
    [
        _item(1, b"abc", 4),
        _item(1, b"abc", 2**34),
        _item(1, b"abc") + _item(0x81, _deflated(b"abc")),
        _item(0x83, _deflated(bytes(LARGEST + 1))),
        _item(0x83, _deflated(b"abc")[:-1]),
        _item(0x83, _deflated(b"abc") + b"more"),
        _item(0x83, b"\xff\xff\xff"),
        b"\1",
        b"",
    ],
)
def test_forged_items_are_one_error(items: bytes) -> None:
    with pytest.raises(BitstreamError):
        tail.parse(items + zlib.crc32(items).to_bytes(4, "little"))


def test_items_of_later_versions_are_passed_over() -> None:
    items = _item(77, b"unknown") + _item(3, b"<x/>") + _item(0xFF, b"unknown, too")
    assert tail.parse(items + zlib.crc32(items).to_bytes(4, "little")) == Carried(xmp=b"<x/>")
