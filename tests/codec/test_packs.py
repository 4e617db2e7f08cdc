"""Packs from images to bytes and back."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ncbatch.codec import ans
from ncbatch.codec.bits_back import bbvi, image_stack, pack, pack_file
from ncbatch.codec.bits_back import encode as encoding
from ncbatch.codec.bits_back.bbvi import BbviSettings, rate_gradient
from ncbatch.codec.bits_back.encode import PackCandidate, VerifiedPack, restored
from ncbatch.codec.bits_back.encode import encode_pack as encode
from ncbatch.codec.bits_back.pack import OpenPack, PackReader
from ncbatch.codec.encode import encode as encode_file
from ncbatch.codec.errors import (
    BitstreamError,
    ModelError,
    PackCheckError,
    PosteriorMismatchError,
    WrongModelError,
)
from ncbatch.codec.leb128 import leb128
from ncbatch.codec.methods import Amortized, BitsBack, BitsBackBbvi, Packed, SgaBitsBack
from ncbatch.codec.model.hyperprior import Model
from tests.codec.packs import PIXELS, RECIPE, decoded, find


@pytest.mark.parametrize(
    "recipe",
    [
        BitsBack(lmbda=0.01),
        BitsBackBbvi(lmbda=0.01, bbvi_steps=3),
        SgaBitsBack(lmbda=0.01, steps=2, bbvi_steps=3),
    ],
)
def test_images_come_back(posterior_model: Model, crops: list[np.ndarray], recipe: Packed) -> None:
    images = find(posterior_model, crops, recipe)
    result = encode(posterior_model, images, recipe)
    out, side = decoded(posterior_model, result.pack.data)
    assert sorted(out) == list(range(len(crops))) and side == b""
    assert all(torch.equal(out[i], image.y_hat) for i, image in enumerate(images))
    assert result.plain == frozenset()
    assert [share.coded.bits_back is None for share in result.pack.shares] == [True, False, False, False]


def test_finding_codes_nothing(
    posterior_model: Model, crops: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The amortized baseline takes no coding; its bytes are about those of its file."""

    def refused(*_: object) -> None:
        raise AssertionError

    file = encode_file(posterior_model, crops[:1], Amortized(lmbda=0.01))[0].outcome
    monkeypatch.setattr(ans, "push_gaussian", refused)
    monkeypatch.setattr(ans, "pop_gaussian", refused)
    (candidate,) = find(posterior_model, crops[:1], BitsBack(lmbda=0.01))
    assert candidate.amortized.mse == file.mse
    assert candidate.amortized.bytes == pytest.approx(len(file.data), rel=1e-3, abs=4)


def test_shares_add_up_to_the_file(packed: VerifiedPack) -> None:
    shares, data = packed.pack.shares, packed.pack.data
    assert sum(share.net_bytes for share in shares) == len(data) and packed.pack.side_bytes == 0
    ordered = sorted(shares, key=lambda share: share.offset)
    assert ordered == shares[::-1]  # the image packed last comes first
    ends = [share.offset + share.length for share in ordered]
    assert [share.offset for share in ordered] == [0, *ends[:-1]] and ends[-1] == len(data)


def test_net_bytes_are_the_information_content(packed: VerifiedPack) -> None:
    for share in packed.pack.shares:
        coded = share.coded
        bits = coded.bits_y + coded.bits_z - (coded.bits_back or 0.0)
        # An entry and its checksum, words of 32 bits, and what a parameter near to a boundary costs.
        assert -64 < 8 * share.net_bytes - bits < 8 * 60 + 0.005 * bits


def test_bits_back_costs_less_than_coding_z_without(
    posterior_model: Model, packed: VerifiedPack, found: list[PackCandidate]
) -> None:
    """z on a fine grid has more bits than on the coarse one, and gets more than the difference back."""
    for share in packed.pack.shares[1:]:
        assert share.coded.bits_back is not None
        assert share.coded.bits_back > 0.5 * share.coded.bits_z


def test_rows_say_what_decodes(
    posterior_model: Model, packed: VerifiedPack, found: list[PackCandidate], crops: list[np.ndarray]
) -> None:
    opened = OpenPack(posterior_model, packed.pack.data, max_pixels=PIXELS)
    for crop, encoded, share in zip(crops, packed.encoded, packed.pack.shares, strict=True):
        image = opened.image(share.offset)
        assert image.shape == crop.shape
        mse = np.square(image.astype(float) - crop).mean()
        assert encoded.outcome.mse == pytest.approx(mse)
        assert encoded.outcome.data == packed.pack.data[share.offset : share.offset + share.length]
        bpp = 8 * share.net_bytes / (crop.size / 3)
        assert encoded.outcome.loss == pytest.approx(bpp + 0.01 * mse)
    with pytest.raises(BitstreamError, match="no image there"):
        opened.image(7)


def test_a_suffix_needs_only_the_front_of_the_file(
    posterior_model: Model, packed: VerifiedPack, found: list[PackCandidate]
) -> None:
    share = packed.pack.shares[2]
    front = packed.pack.data[: share.offset + share.length]
    reader = PackReader(posterior_model, front, max_pixels=PIXELS)
    out = {unpacked.index: unpacked.y_hat for unpacked in reader.images(first=2)}
    assert sorted(out) == [2, 3]
    assert all(torch.equal(out[i], found[i].y_hat) for i in out)


def test_cut_short_it_says_which_images_are_lost(posterior_model: Model, packed: VerifiedPack) -> None:
    data, shares = packed.pack.data, packed.pack.shares
    for length in (len(data) - 1, shares[0].offset, shares[1].offset + 5, shares[3].length - 1):
        whole = [i for i, share in enumerate(shares) if share.offset + share.length <= length]
        lost = 4 - len(whole)
        out = []
        words = "image 0 is lost" if lost == 1 else f"images 0 to {lost - 1} are lost"
        with pytest.raises(BitstreamError, match=words):
            for unpacked in PackReader(posterior_model, data[:length], max_pixels=PIXELS).images():
                out.append(unpacked.index)
        assert sorted(out) == whole


def test_a_flipped_bit_loses_the_images_from_there_on_and_no_others(
    posterior_model: Model, packed: VerifiedPack, found: list[PackCandidate]
) -> None:
    data, shares = packed.pack.data, packed.pack.shares
    header = len(pack_file.write_header(packed_header(packed)))
    random = np.random.default_rng(0)
    for position in [0, 3, 12, header - 1, *random.integers(0, len(data), 40).tolist()]:
        damaged = bytearray(data)
        damaged[position] ^= 1 << random.integers(8)
        hit = next(i for i, s in enumerate(shares) if s.offset <= position < s.offset + s.length)
        out = []
        with pytest.raises((BitstreamError, ModelError)):
            for unpacked in PackReader(posterior_model, bytes(damaged), max_pixels=PIXELS).images():
                assert torch.equal(unpacked.y_hat, found[unpacked.index].y_hat)
                out.append(unpacked.index)
        assert sorted(out) == list(range(hit + 1, 4)), position


def test_side_information_pays_for_the_first_image_and_comes_back(
    posterior_model: Model, found: list[PackCandidate]
) -> None:
    needed = image_stack.borrowed_bytes(found[0].inferred)
    side = np.random.default_rng(1).bytes(needed + 100)
    result = encode(posterior_model, found[:1], RECIPE, side_information=side)
    assert result.encoded[0].outcome.bits_back is not None
    assert decoded(posterior_model, result.pack.data)[1] == side
    assert result.pack.shares[0].net_bytes + result.pack.side_bytes == len(result.pack.data)
    short = encode(posterior_model, found[:1], RECIPE, side_information=side[: needed // 2])
    assert short.encoded[0].outcome.bits_back is None
    assert decoded(posterior_model, short.pack.data)[1] == side[: needed // 2]


def test_side_information_behind_another_posterior_costs_no_image(
    posterior_model: Model, found: list[PackCandidate], monkeypatch: pytest.MonkeyPatch
) -> None:
    side = bytes(range(256)) * 8
    data = encode(posterior_model, found[:1], RECIPE, side_information=side).pack.data
    _perturbed(monkeypatch, 1.0)
    images = PackReader(posterior_model, data, max_pixels=PIXELS).images()
    assert torch.equal(next(images).y_hat, found[0].y_hat)
    with pytest.raises(PosteriorMismatchError, match=r"all images .* came out, but not .*versions"):
        next(images)


def test_damaged_side_information_costs_no_image(posterior_model: Model, found: list[PackCandidate]) -> None:
    side = bytes(range(256)) * 8
    data = bytearray(encode(posterior_model, found, RECIPE, side_information=side).pack.data)
    data[-6] ^= 1
    out: list[Any] = []
    with pytest.raises(BitstreamError, match="all images"):
        out += PackReader(posterior_model, bytes(data), max_pixels=PIXELS).images()
        raise AssertionError
    opened = PackReader(posterior_model, bytes(data), max_pixels=PIXELS).images()
    assert [next(opened).index for _ in range(4)] == [3, 2, 1, 0]


def _perturbed(monkeypatch: pytest.MonkeyPatch, size: float) -> None:
    generator = torch.Generator().manual_seed(0)

    def perturbed(*args: Any) -> Tensor:
        gradient = rate_gradient(*args)
        return gradient * (1 + size * torch.randn(gradient.shape, generator=generator, dtype=torch.float64))

    monkeypatch.setattr(bbvi, "rate_gradient", perturbed)


def test_a_slightly_different_decoder_decodes(
    posterior_model: Model, found: list[PackCandidate], packed: VerifiedPack, monkeypatch: pytest.MonkeyPatch
) -> None:
    _perturbed(monkeypatch, 1e-9)
    out, _ = decoded(posterior_model, packed.pack.data)
    assert all(torch.equal(out[i], image.y_hat) for i, image in enumerate(found))


def test_a_different_decoder_says_so_and_shows_no_wrong_image(
    posterior_model: Model, crops: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = RECIPE.model_copy(update={"bbvi_steps": 60})
    found = find(posterior_model, crops, recipe)
    data = encode(posterior_model, found, recipe).pack.data
    _perturbed(monkeypatch, 1e-2)
    out = []
    with pytest.raises(PosteriorMismatchError, match=r"images 0 to \d are lost.*versions"):
        for unpacked in PackReader(posterior_model, data, max_pixels=PIXELS).images():
            assert torch.equal(unpacked.y_hat, found[unpacked.index].y_hat)
            out.append(unpacked.index)
    assert out


def test_another_model_is_refused(model: Model, packed: VerifiedPack) -> None:
    with pytest.raises(WrongModelError, match="--model"):
        PackReader(model, packed.pack.data, max_pixels=PIXELS)


def test_a_model_without_posterior_is_refused(model: Model, crops: list[np.ndarray]) -> None:
    with pytest.raises(ModelError, match="kind base"):
        find(model, crops[:1])


@pytest.mark.parametrize("change", [0.1, math.nan])
def test_an_image_that_fails_its_check_is_coded_without_bits_back(
    posterior_model: Model, found: list[PackCandidate], monkeypatch: pytest.MonkeyPatch, change: float
) -> None:
    """Its inference comes out differently when it is repeated."""
    real = image_stack.infer

    def unsteady(
        model: Model, y_hat: Tensor, settings: BbviSettings, disturbance: float
    ) -> tuple[Tensor, Tensor]:
        mean, log_variance = real(model, y_hat, settings, disturbance)
        if torch.equal(y_hat, found[2].y_hat):
            mean = mean + change
        return mean, log_variance

    monkeypatch.setattr(image_stack, "infer", unsteady)
    result = encode(posterior_model, found, RECIPE)
    assert result.plain == {2}
    out, _ = decoded(posterior_model, result.pack.data)
    assert all(torch.equal(out[i], image.y_hat) for i, image in enumerate(found))


def test_an_image_that_does_not_decode_at_all_is_named(
    posterior_model: Model, found: list[PackCandidate], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = image_stack.pop_image

    def broken(stack: Any, model: Model, entry: pack_file.Entry, **how: bool) -> Any:
        if (entry.height, entry.width) == found[1].pixels.shape[:2]:
            raise BitstreamError("no")
        return real(stack, model, entry, **how)

    monkeypatch.setattr("ncbatch.codec.bits_back.pack.pop_image", broken)
    with pytest.raises(PackCheckError) as caught:
        encode(posterior_model, found, RECIPE)
    assert caught.value.image == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [("width", 0), ("width", 60_000), ("width", 70), ("method", "map"), ("latents", 5), ("posterior", None),
     ("posterior", 7)],
)  # fmt: skip
def test_an_entry_that_lies_is_an_error(
    posterior_model: Model,
    found: list[PackCandidate],
    monkeypatch: pytest.MonkeyPatch,
    field: str,
    value: Any,
) -> None:
    """With a checksum that fits."""
    real = pack_file.write_section

    def lying(entry: pack_file.Entry, words: Any, in_front: Any) -> Any:
        index = next(i for i, f in enumerate(found) if f.pixels.shape[:2] == (entry.height, entry.width))
        values = {**vars(entry), field: value} if index == 2 else vars(entry)
        return real(pack_file.Entry(**values), words, in_front)

    items = [encoding.PackItem(f.inferred, f.method, f.pixels.shape[1], f.pixels.shape[0]) for f in found]
    monkeypatch.setattr(pack_file, "write_section", lying)
    data = encoding.write_pack(posterior_model, items, encoding.inference_settings(RECIPE)).data
    out = []
    if field == "method":  # harmless: decoding does not depend on it
        assert len(decoded(posterior_model, data)[0]) == 4
        return
    with pytest.raises(BitstreamError, match="lost"):
        for unpacked in PackReader(posterior_model, data, max_pixels=PIXELS).images():
            out.append(unpacked.index)
            assert torch.equal(unpacked.y_hat, found[unpacked.index].y_hat)
    assert 3 in out and 1 not in out


def test_a_size_is_said_once_for_neighbours_that_share_it(
    posterior_model: Model, crops: list[np.ndarray]
) -> None:
    """An entry and its checksums then take 13 bytes, and what its corrections take."""
    crop = crops[0]
    images = find(posterior_model, [crop, crop[:, ::-1].copy(), crop[::-1].copy(), crop[:-1]])
    pack = encode(posterior_model, images, RECIPE).pack
    file = pack_file.PackFile(pack.data, max_pixels=PIXELS)
    entries = [file.next_section().entry for _ in images][::-1]
    assert [(e.height, e.width) for e in entries] == [p.pixels.shape[:2] for p in images]
    overheads = [share.net_bytes - 4 * share.coded.words for share in pack.shares]
    corrections = [len(pack_file._coded_corrections(e.corrections)) for e in entries]
    assert overheads[0] == 9  # without bits-back
    assert overheads[1] == 13 + corrections[1]
    assert overheads[2] == 13 + corrections[2] + 3  # its neighbour is one row shorter; 128 takes two bytes


def test_a_first_entry_without_a_size_is_an_error(posterior_model: Model, packed: VerifiedPack) -> None:
    _check_section(packed, bytes([pack_file._SIZE_AS_BEFORE]) + bytes(20), "no size")


def _check_section(packed: VerifiedPack, content: bytes, problem: str) -> None:
    """Reads a pack whose first section has this content, with a checksum that fits."""
    section = leb128(len(content)) + content
    data = pack_file.write_header(packed_header(packed)) + section + pack_file._checksum(section)
    with pytest.raises(BitstreamError, match=problem):
        pack_file.PackFile(data, max_pixels=PIXELS).next_section()


def test_more_corrections_than_an_encoder_writes_take_no_memory(packed: VerifiedPack) -> None:
    flags = pack_file._WITH_POSTERIOR | pack_file._WITH_CORRECTIONS
    front = bytes([flags, 64, 64]) + bytes(6)
    _check_section(packed, front + leb128(10**6) + bytes(10**6), "it corrects 1,000,000 parameters")
    _check_section(packed, front + leb128(33) + bytes(33), "it corrects 33 parameters")
    _check_section(packed, front + leb128(32) + bytes(29), "a number that does not end")
    _check_section(packed, front + leb128(32) + bytes(33), "not made of whole words")


def test_the_size_is_looked_at_before_anything_is_made_of_it(packed: VerifiedPack) -> None:
    _check_section(packed, bytes([0]) + leb128(60_000) + leb128(60_000) + bytes(20), "--max-pixels")
    _check_section(packed, bytes([0, 0, 5]) + bytes(20), "claims an image of 0 x 5")
    _check_section(packed, b"", "a number that does not end")


def test_what_was_kept_of_images_makes_the_same_pack(
    posterior_model: Model, packed: VerifiedPack, found: list[PackCandidate], crops: list[np.ndarray]
) -> None:
    again = [restored(posterior_model, c, RECIPE, f.state()) for c, f in zip(crops, found, strict=True)]
    assert encode(posterior_model, again, RECIPE).pack.data == packed.pack.data


def _with_header(packed: VerifiedPack, **fields: Any) -> bytes:
    """The pack with another header, whose checksum fits."""
    header = packed_header(packed)
    data = packed.pack.data[len(pack_file.write_header(header)) :]
    return pack_file.write_header(replace(header, **fields)) + data


def packed_header(packed: VerifiedPack) -> pack_file.PackHeader:
    return pack_file.PackFile(packed.pack.data, max_pixels=PIXELS).header


@pytest.mark.parametrize(
    "inference",
    [BbviSettings(10**9, 0.003), BbviSettings(8, math.nan), BbviSettings(8, 0.3), BbviSettings(8, -1.0)],
)
def test_a_header_that_asks_for_too_much_is_refused(
    posterior_model: Model, packed: VerifiedPack, inference: BbviSettings
) -> None:
    with pytest.raises(BitstreamError, match="steps of inference at the rate"):
        PackReader(posterior_model, _with_header(packed, inference=inference), max_pixels=PIXELS)


@pytest.mark.parametrize("side_bytes", [10**5, 2**33])
def test_side_information_that_is_not_there_takes_no_memory(
    posterior_model: Model, packed: VerifiedPack, side_bytes: int
) -> None:
    data = _with_header(packed, side_bytes=side_bytes) + pack_file.write_side_words(np.empty(0, np.uint32))
    with pytest.raises(BitstreamError, match="less side information than it says"):
        list(PackReader(posterior_model, data, max_pixels=PIXELS).images())


def test_a_pack_that_names_a_base_model_is_refused(model: Model, packed: VerifiedPack) -> None:
    data = _with_header(packed, model_digest=model.digest[:16])
    with pytest.raises(ModelError, match="kind base"):
        PackReader(model, data, max_pixels=PIXELS)


def test_side_information_costs_the_same_whatever_it_holds(
    posterior_model: Model, found: list[PackCandidate]
) -> None:
    """z is drawn from it, and must not fall far from the posterior's mean."""
    needed = image_stack.borrowed_bytes(found[0].inferred) + 2000
    random = np.random.default_rng(2).bytes(needed)
    costs = []
    for side in (random, bytes(needed), b"\xff" * needed, random[:-50] + bytes(50)):
        result = encode(posterior_model, found[:1], RECIPE, side_information=side)
        assert decoded(posterior_model, result.pack.data)[1] == side
        costs.append(result.pack.shares[0].net_bytes)
    assert max(costs) - min(costs) <= 16  # of some 150; words have four bytes


def test_side_information_pays_or_not(posterior_model: Model, found: list[PackCandidate]) -> None:
    image = found[0].inferred
    needed = image_stack.borrowed_bytes(image)
    assert pack.pays_for(posterior_model, image, bytes(2 * needed))
    assert not pack.pays_for(posterior_model, image, bytes(needed // 2))


def test_chaotic_inference_is_noticed_by_the_encoder(posterior_model: Model, crops: list[np.ndarray]) -> None:
    """At a rate that no recipe takes: the image would not decode on another machine, so it goes without."""
    settings = {"bbvi_steps": 500, "bbvi_learning_rate": 3.0}
    recipe = RECIPE.model_copy(update=settings)
    images = find(posterior_model, crops[:2], recipe)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pack_file, "MAX_BBVI_LEARNING_RATE", 3.0)
        assert encode(posterior_model, images, recipe).plain == {1}


def test_another_memory_layout_decodes_the_same(
    posterior_model: Model, packed: VerifiedPack, found: list[PackCandidate], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other kernels, other orders of summation."""
    fresh = Model(posterior_model._checkpoint)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "channels_last", torch.contiguous_format)
        assert fresh.precise_hyper_synthesis and fresh.precise_hyper_analysis
        settings = BbviSettings(20, 0.003)
        pairs = [bbvi.infer(m, found[0].y_hat, settings)[0] for m in (posterior_model, fresh)]
        assert 0 < (pairs[0] - pairs[1]).abs().max() < 1e-9
        out, _ = decoded(fresh, packed.pack.data)
    assert all(torch.equal(out[i], image.y_hat) for i, image in enumerate(found))
