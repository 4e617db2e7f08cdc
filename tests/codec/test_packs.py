"""Packs from pictures to bytes and back."""

import numpy as np
import pytest
import torch

from ncbatch.codec import bbvi, bits_back, encode_pack, pack
from ncbatch.codec.bbvi import rate_gradient
from ncbatch.codec.encode_pack import encode_pack as encode
from ncbatch.codec.encode_pack import find_in_pack, find_latents, lent_bytes
from ncbatch.codec.errors import (
    BitstreamError,
    ModelError,
    PackCheckError,
    PosteriorMismatchError,
    WrongModelError,
)
from ncbatch.codec.model import Model
from ncbatch.codec.packing import OpenPack, PackReader
from ncbatch.codec.recipe import Recipe

RECIPE = Recipe(method="bits-back+bbvi", lmbda=0.01, bbvi_steps=8)
PIXELS = 10**6


def find(model, pictures, recipe=RECIPE):
    return [find_latents(model, [picture], recipe)[0] for picture in pictures]


@pytest.fixture(scope="module")
def found(posterior_model, crops):
    return find(posterior_model, crops)


@pytest.fixture(scope="module")
def packed(posterior_model, found):
    return encode(posterior_model, found, RECIPE)


def decoded(model, data):
    reader = PackReader(model, data, max_pixels=PIXELS)
    return {unpacked.index: unpacked.y_hat for unpacked in reader.pictures()}, reader.side_information


@pytest.mark.parametrize("method", ["bits-back", "bits-back+bbvi", "sga+bits-back"])
def test_pictures_come_back(posterior_model, crops, method):
    steps = {} if method == "bits-back" else {"bbvi_steps": 3}
    steps |= {"steps": 2} if method.startswith("sga") else {}
    recipe = Recipe(method=method, lmbda=0.01, **steps)
    pictures = find(posterior_model, crops, recipe)
    result = encode(posterior_model, pictures, recipe)
    out, side = decoded(posterior_model, result.pack.data)
    assert sorted(out) == list(range(len(crops))) and side == b""
    assert all(torch.equal(out[i], picture.y_hat) for i, picture in enumerate(pictures))
    assert result.plain == frozenset()
    assert [share.coded.bits_back is None for share in result.pack.shares] == [True, False, False, False]


def test_shares_add_up_to_the_file(packed):
    shares, data = packed.pack.shares, packed.pack.data
    assert sum(share.net_bytes for share in shares) == len(data) and packed.pack.side_bytes == 0
    ordered = sorted(shares, key=lambda share: share.offset)
    assert ordered == shares[::-1]  # the picture packed last comes first
    ends = [share.offset + share.length for share in ordered]
    assert [share.offset for share in ordered] == [0, *ends[:-1]] and ends[-1] == len(data)


def test_net_bytes_are_the_information_content(packed):
    for share in packed.pack.shares:
        coded = share.coded
        bits = coded.bits_y + coded.bits_z - (coded.bits_back or 0.0)
        # An entry and its checksum, words of 32 bits, and what a parameter near to a boundary costs.
        assert -64 < 8 * share.net_bytes - bits < 8 * 60 + 0.005 * bits


def test_bits_back_costs_less_than_coding_z_without(posterior_model, packed, found):
    """z on a fine grid has more bits than on the coarse one, and gets more than the difference back."""
    for share in packed.pack.shares[1:]:
        assert share.coded.bits_back > 0.5 * share.coded.bits_z


def test_rows_say_what_decodes(posterior_model, packed, found, crops):
    opened = OpenPack(posterior_model, packed.pack.data, max_pixels=PIXELS)
    for crop, encoded, share in zip(crops, packed.encoded, packed.pack.shares, strict=True):
        picture = opened.picture(share.offset)
        assert picture.shape == crop.shape
        mse = np.square(picture.astype(float) - crop).mean()
        assert encoded.outcome.mse == pytest.approx(mse)
        assert encoded.outcome.data == packed.pack.data[share.offset : share.offset + share.length]
        bpp = 8 * share.net_bytes / (crop.size / 3)
        assert encoded.outcome.loss == pytest.approx(bpp + 0.01 * mse)
    with pytest.raises(BitstreamError, match="no picture there"):
        opened.picture(7)


def test_a_suffix_needs_only_the_front_of_the_file(posterior_model, packed, found):
    share = packed.pack.shares[2]
    front = packed.pack.data[: share.offset + share.length]
    reader = PackReader(posterior_model, front, max_pixels=PIXELS)
    out = {unpacked.index: unpacked.y_hat for unpacked in reader.pictures(first=2)}
    assert sorted(out) == [2, 3]
    assert all(torch.equal(out[i], found[i].y_hat) for i in out)


def test_cut_short_it_says_which_pictures_are_lost(posterior_model, packed):
    data, shares = packed.pack.data, packed.pack.shares
    for length in (len(data) - 1, shares[0].offset, shares[1].offset + 5, shares[3].length - 1):
        whole = [i for i, share in enumerate(shares) if share.offset + share.length <= length]
        lost = 4 - len(whole)
        out = []
        words = "picture 0 is lost" if lost == 1 else f"pictures 0 to {lost - 1} are lost"
        with pytest.raises(BitstreamError, match=words):
            for unpacked in PackReader(posterior_model, data[:length], max_pixels=PIXELS).pictures():
                out.append(unpacked.index)
        assert sorted(out) == whole


def test_a_flipped_bit_loses_the_pictures_from_there_on_and_no_others(posterior_model, packed, found):
    data, shares = packed.pack.data, packed.pack.shares
    header = len(data) - sum(s.length for s in shares) + 24
    random = np.random.default_rng(0)
    for position in [0, 3, 12, header - 1, *random.integers(0, len(data), 40).tolist()]:
        damaged = bytearray(data)
        damaged[position] ^= 1 << random.integers(8)
        hit = next(i for i, s in enumerate(shares) if s.offset <= position < s.offset + s.length)
        out = []
        with pytest.raises((BitstreamError, ModelError)):
            for unpacked in PackReader(posterior_model, bytes(damaged), max_pixels=PIXELS).pictures():
                assert torch.equal(unpacked.y_hat, found[unpacked.index].y_hat)
                out.append(unpacked.index)
        assert sorted(out) == list(range(hit + 1, 4)), position


def test_side_information_pays_for_the_first_picture_and_comes_back(posterior_model, found):
    needed = lent_bytes(posterior_model, found[0], RECIPE)
    side = np.random.default_rng(1).bytes(needed + 100)
    result = encode(posterior_model, found[:1], RECIPE, side_information=side)
    assert result.encoded[0].outcome.bits_back is not None
    assert decoded(posterior_model, result.pack.data)[1] == side
    assert result.pack.shares[0].net_bytes + result.pack.side_bytes == len(result.pack.data)
    short = encode(posterior_model, found[:1], RECIPE, side_information=side[: needed // 2])
    assert short.encoded[0].outcome.bits_back is None
    assert decoded(posterior_model, short.pack.data)[1] == side[: needed // 2]


def test_damaged_side_information_costs_no_picture(posterior_model, found):
    side = bytes(range(256)) * 8
    data = bytearray(encode(posterior_model, found, RECIPE, side_information=side).pack.data)
    data[-6] ^= 1
    out = []
    with pytest.raises(BitstreamError, match="all pictures"):
        out += PackReader(posterior_model, bytes(data), max_pixels=PIXELS).pictures()
        raise AssertionError
    opened = PackReader(posterior_model, bytes(data), max_pixels=PIXELS).pictures()
    assert [next(opened).index for _ in range(4)] == [3, 2, 1, 0]


def _perturbed(monkeypatch, size):
    generator = torch.Generator().manual_seed(0)

    def perturbed(*args):
        gradient = rate_gradient(*args)
        return gradient * (1 + size * torch.randn(gradient.shape, generator=generator, dtype=torch.float64))

    monkeypatch.setattr(bbvi, "rate_gradient", perturbed)


def test_a_slightly_different_decoder_decodes(posterior_model, found, packed, monkeypatch):
    _perturbed(monkeypatch, 1e-9)
    out, _ = decoded(posterior_model, packed.pack.data)
    assert all(torch.equal(out[i], picture.y_hat) for i, picture in enumerate(found))


def test_a_different_decoder_says_so_and_shows_no_wrong_picture(posterior_model, found, monkeypatch):
    recipe = RECIPE.model_copy(update={"bbvi_steps": 60})
    data = encode(posterior_model, found, recipe).pack.data
    _perturbed(monkeypatch, 1e-2)
    out = []
    with pytest.raises(PosteriorMismatchError, match=r"pictures 0 to \d are lost.*versions"):
        for unpacked in PackReader(posterior_model, data, max_pixels=PIXELS).pictures():
            assert torch.equal(unpacked.y_hat, found[unpacked.index].y_hat)
            out.append(unpacked.index)
    assert out


def test_another_model_is_refused(model, packed):
    with pytest.raises(WrongModelError, match="--model"):
        PackReader(model, packed.pack.data, max_pixels=PIXELS)


def test_a_model_without_posterior_is_refused(model, found):
    with pytest.raises(ModelError, match="kind base"):
        encode(model, found, RECIPE)


def test_a_picture_that_fails_its_check_is_coded_without_bits_back(posterior_model, found, monkeypatch):
    """Its inference comes out differently whenever it is repeated."""
    real = bits_back.infer
    calls = []

    def unsteady(model, y_hat, settings):
        mean, log_variance = real(model, y_hat, settings)
        calls.append(1)
        if torch.equal(y_hat, found[2].y_hat) and len(calls) > len(found):
            mean = mean + 0.1
        return mean, log_variance

    monkeypatch.setattr(bits_back, "infer", unsteady)
    result = encode(posterior_model, found, RECIPE)
    assert result.plain == {2}
    out, _ = decoded(posterior_model, result.pack.data)
    assert all(torch.equal(out[i], picture.y_hat) for i, picture in enumerate(found))


def test_a_picture_that_does_not_decode_at_all_is_named(posterior_model, found, monkeypatch):
    real = bits_back.pop_picture

    def broken(stack, model, entry):
        if (entry.height, entry.width) == found[1].pixels.shape[:2]:
            raise BitstreamError("no")
        return real(stack, model, entry)

    monkeypatch.setattr("ncbatch.codec.packing.pop_picture", broken)
    with pytest.raises(PackCheckError) as caught:
        encode(posterior_model, found, RECIPE)
    assert caught.value.picture == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [("width", 0), ("width", 60_000), ("width", 70), ("method", "map"), ("latents", 5), ("posterior", None),
     ("posterior", 7)],
)  # fmt: skip
def test_an_entry_that_lies_is_an_error(posterior_model, found, monkeypatch, field, value):
    """With a checksum that fits."""
    real = pack.write_section

    def lying(entry, words):
        index = next(i for i, f in enumerate(found) if f.pixels.shape[:2] == (entry.height, entry.width))
        values = {**vars(entry), field: value} if index == 2 else vars(entry)
        return real(pack.Entry(**values), words)

    items = [
        encode_pack.PackItem(
            bits_back.infer_posterior(posterior_model, f.y_hat, encode_pack.inference_settings(RECIPE)),
            f.method, f.pixels.shape[1], f.pixels.shape[0],
        )
        for f in found
    ]  # fmt: skip
    monkeypatch.setattr(pack, "write_section", lying)
    data = encode_pack.write_pack(posterior_model, items, encode_pack.inference_settings(RECIPE)).data
    out = []
    if field == "method":  # harmless: decoding does not depend on it
        assert len(decoded(posterior_model, data)[0]) == 4
        return
    with pytest.raises(BitstreamError, match="lost"):
        for unpacked in PackReader(posterior_model, data, max_pixels=PIXELS).pictures():
            out.append(unpacked.index)
            assert torch.equal(unpacked.y_hat, found[unpacked.index].y_hat)
    assert 3 in out and 1 not in out


def test_latents_are_found_again_in_a_standing_pack(posterior_model, packed, found, crops):
    again = find_in_pack(posterior_model, crops, packed.pack.data)
    assert all(torch.equal(a.y_hat, f.y_hat) for a, f in zip(again, found, strict=True))
    assert find_in_pack(posterior_model, crops[:3], packed.pack.data) is None
    assert find_in_pack(posterior_model, [*crops[:3], 255 - crops[3]], packed.pack.data) is None


def test_another_memory_layout_decodes_the_same(posterior_model, checkpoint, packed, found, monkeypatch):
    """y_hat and z as channels_last and the other way round: other kernels, other orders of summation."""
    real = bbvi.infer

    def strided(model, y_hat, settings):
        return real(model, y_hat.to(memory_format=torch.channels_last), settings)

    monkeypatch.setattr(bits_back, "infer", strided)
    fresh = Model(posterior_model._checkpoint)
    for transform in (fresh.precise_hyper_synthesis, fresh.precise_hyper_analysis):
        call = type(transform).__call__
        monkeypatch.setattr(type(transform), "__call__", lambda t, x, call=call: call(t, x).contiguous())
    out, _ = decoded(fresh, packed.pack.data)
    assert all(torch.equal(out[i], picture.y_hat) for i, picture in enumerate(found))
