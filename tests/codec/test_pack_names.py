"""The names of images in packs."""

import zlib
from dataclasses import replace

import pytest
import torch

from ncbatch.codec.bits_back import pack_file
from ncbatch.codec.bits_back.encode import PackCandidate, VerifiedPack
from ncbatch.codec.bits_back.encode import encode_pack as encode
from ncbatch.codec.errors import (
    BitstreamError,
)
from ncbatch.codec.model.hyperprior import Model
from tests.codec.packs import PIXELS, RECIPE, decoded

NAMES = ["é.png".encode(), b"a b.jpg", b"", b"\xff.tif"]


@pytest.fixture(scope="module")
def named(packed: VerifiedPack) -> bytes:
    return pack_file.with_names(packed.pack.data, NAMES)


def same(model: Model, data: bytes, found: list[PackCandidate]) -> bool:
    out, _ = decoded(model, data)
    return sorted(out) == list(range(len(found))) and all(
        torch.equal(out[i], image.y_hat) for i, image in enumerate(found)
    )


def test_names_come_back_and_cost_nothing_where_there_are_none(
    posterior_model: Model, packed: VerifiedPack, found: list[PackCandidate], named: bytes
) -> None:
    assert packed.pack.data[3] == 4 and named[3] == 5
    assert pack_file.PackFile(packed.pack.data, max_pixels=PIXELS).names is None
    assert pack_file.PackFile(named, max_pixels=PIXELS).names == tuple(NAMES)
    assert same(posterior_model, named, found)
    again = pack_file.with_names(named, NAMES[::-1])
    assert pack_file.PackFile(again, max_pixels=PIXELS).names == tuple(NAMES[::-1])
    assert same(posterior_model, again, found)


def test_names_beside_side_information(posterior_model: Model, found: list[PackCandidate]) -> None:
    side = bytes(range(256)) * 16
    data = pack_file.with_names(
        encode(posterior_model, found, RECIPE, side_information=side).pack.data, NAMES
    )
    assert pack_file.PackFile(data, max_pixels=PIXELS).names == tuple(NAMES)
    assert decoded(posterior_model, data)[1] == side and same(posterior_model, data, found)


def test_damaged_names_cost_no_image(
    posterior_model: Model, packed: VerifiedPack, found: list[PackCandidate], named: bytes
) -> None:
    at = len(named) - len(packed.pack.data)  # the names begin somewhere in front of the first section
    header, position = pack_file._read_header(named)
    assert 0 < header.names_bytes < at
    for place in range(position, position + header.names_bytes + 4):
        damaged = named[:place] + bytes([named[place] ^ 1]) + named[place + 1 :]
        assert pack_file.PackFile(damaged, max_pixels=PIXELS).names is None
    assert same(posterior_model, damaged, found)


@pytest.mark.parametrize("content", [b"\0" * 2, b"\0" * 4, b"x" * (1 << 25)])
def test_names_that_lie_are_none(
    posterior_model: Model, packed: VerifiedPack, found: list[PackCandidate], named: bytes, content: bytes
) -> None:
    """Too few, too many, or more than memory should be spent on."""
    header, position = pack_file._read_header(packed.pack.data)
    stored = zlib.compress(content)
    start = pack_file.write_header(replace(header, names_bytes=len(stored)))
    data = start + stored + zlib.crc32(stored).to_bytes(4, "little") + packed.pack.data[position:]
    assert pack_file.PackFile(data, max_pixels=PIXELS).names is None
    assert same(posterior_model, data, found)


def test_names_longer_than_the_file_are_an_error(posterior_model: Model, packed: VerifiedPack) -> None:
    header, position = pack_file._read_header(packed.pack.data)
    data = pack_file.write_header(replace(header, names_bytes=10**6)) + packed.pack.data[position:]
    with pytest.raises(BitstreamError, match="images 0 to 3 are lost"):
        decoded(posterior_model, data)


@pytest.mark.parametrize("names", [NAMES[:3], [*NAMES[:3], b"a\0b"]])
def test_a_pack_takes_one_name_an_image(packed: VerifiedPack, names: list[bytes]) -> None:
    with pytest.raises(ValueError, match="one name an image"):
        pack_file.with_names(packed.pack.data, names)
