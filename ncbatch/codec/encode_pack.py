"""Pictures to a pack: latents, posteriors, the file, and the proof that it decodes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ncbatch.codec import quality
from ncbatch.codec.bbvi import BbviSettings
from ncbatch.codec.bits_back import borrowed_bytes, infer_posterior
from ncbatch.codec.encode import Encoded, Outcome, Pause, State, encode, refine
from ncbatch.codec.errors import BitstreamError, PackCheckError, PosteriorMismatchError
from ncbatch.codec.latent_space import round_y
from ncbatch.codec.model import Model, to_pixels, to_tensor
from ncbatch.codec.packing import Pack, PackItem, PackReader, write_pack
from ncbatch.codec.recipe import Recipe

Pixels = NDArray[np.uint8]

_SAME_PICTURE = 4.0  # refined latents of a picture have at most so much more error than those of the network


@dataclass(frozen=True)
class Found:
    """A picture with the latents that were found for it.

    y_hat: int32[1, M, h, w]; method: as its entry in the pack says; seconds: that it took.
    """

    pixels: Pixels
    y_hat: Tensor
    method: str
    seconds: float


@dataclass(frozen=True)
class Packed:
    """A verified pack. encoded: in the order of the pictures; plain: those coded without bits-back because
    they failed the decode check."""

    pack: Pack
    encoded: list[Encoded]
    plain: frozenset[int]


def inference_settings(recipe: Recipe) -> BbviSettings:
    """What of a recipe the decoder repeats."""
    assert recipe.bbvi_steps is not None
    return BbviSettings(recipe.bbvi_steps, recipe.bbvi_learning_rate or 0.0)


def find_latents(
    model: Model,
    pictures: Sequence[Pixels],
    recipe: Recipe,
    *,
    resume_from: State | None = None,
    on_pause: Pause | None = None,
) -> list[Found]:
    """Finds y_hat for pictures that share their padded shape; arguments and errors as of `encode`."""
    started = time.monotonic()
    batch = torch.cat([to_tensor(picture, model.device) for picture in pictures])
    if recipe.refines:
        y_hat = refine(model, batch, pictures, recipe, resume_from, on_pause).best.y
    else:
        y_hat = round_y(model.analyse(batch)[0])
    seconds = (time.monotonic() - started) / len(pictures)
    return [
        Found(picture, y[None], recipe.method, seconds) for picture, y in zip(pictures, y_hat, strict=True)
    ]


def find_in_pack(model: Model, pictures: Sequence[Pixels], data: bytes) -> list[Found] | None:
    """The latents that a pack holds for pictures, or None when it is of other ones.

    Raises:
        BitstreamError, WrongModelError: it does not decode.
    """
    reader = PackReader(model, data, max_pixels=max(p.shape[0] * p.shape[1] for p in pictures))
    if reader.header.pictures != len(pictures):
        return None
    found: list[Found] = []
    started = time.monotonic()
    for unpacked in reader.pictures():
        pixels = pictures[unpacked.index]
        if (unpacked.entry.height, unpacked.entry.width) != pixels.shape[:2]:
            return None
        [plain] = find_latents(model, [pixels], Recipe(method="bits-back", lmbda=model.info.lmbda))
        if _error(model, pixels, unpacked.y_hat) > _SAME_PICTURE * _error(model, pixels, plain.y_hat):
            return None
        seconds = time.monotonic() - started
        found.append(Found(pixels, unpacked.y_hat, unpacked.entry.method, seconds))
        started = time.monotonic()
    return found[::-1]


def _error(model: Model, pixels: Pixels, y_hat: Tensor) -> float:
    picture = to_pixels(model.synthesise(y_hat.float()), *pixels.shape[:2])
    return quality.mse(pixels, picture)


def encode_pack(
    model: Model, pictures: Sequence[Found], recipe: Recipe, *, side_information: bytes = b""
) -> Packed:
    """Codes pictures into a pack and decodes it again.

    Raises:
        ModelError: the model is not of the kind bits-back.
        PackCheckError: a picture does not come out even without bits-back.
    """
    settings = inference_settings(recipe)
    items, seconds = [], []
    for found in pictures:
        started = time.monotonic()
        height, width = found.pixels.shape[:2]
        inferred = infer_posterior(model, found.y_hat, settings)
        items.append(PackItem(inferred, found.method, width, height))
        seconds.append(found.seconds + time.monotonic() - started)
    plain: set[int] = set()
    while True:
        pack = write_pack(model, items, settings, side_information)
        failed, decode_seconds = _check(model, items, pack, side_information)
        if failed is None:
            break
        if failed in plain:
            raise PackCheckError(failed)
        plain.add(failed)
        items[failed] = replace(items[failed], plain=True)
    encoded = [
        _measured(model, found, recipe, pack, i, seconds[i], decode_seconds[i])
        for i, found in enumerate(pictures)
    ]
    return Packed(pack, encoded, frozenset(plain))


def lent_bytes(model: Model, found: Found, recipe: Recipe) -> int:
    """What a picture must find on the stack to be coded with bits-back."""
    return borrowed_bytes(infer_posterior(model, found.y_hat, inference_settings(recipe)))


def _check(
    model: Model, items: Sequence[PackItem], pack: Pack, side_information: bytes
) -> tuple[int | None, list[float]]:
    """Decodes a pack: the picture that does not come out or give its bits back, and the seconds of each."""
    reader = PackReader(model, pack.data, max_pixels=max(item.width * item.height for item in items))
    seconds = [0.0] * len(items)
    index, started = len(items), time.monotonic()
    try:
        for unpacked in reader.pictures():
            index = unpacked.index
            if not torch.equal(unpacked.y_hat, items[index].inferred.y_hat):
                return index, seconds
            seconds[index] = time.monotonic() - started
            started = time.monotonic()
    except PosteriorMismatchError:
        return index, seconds
    except BitstreamError:
        return max(index - 1, 0), seconds
    return (None if reader.side_information == side_information else 0), seconds


def _measured(
    model: Model, found: Found, recipe: Recipe, pack: Pack, index: int, seconds: float, decode_seconds: float
) -> Encoded:
    started = time.monotonic()
    height, width = found.pixels.shape[:2]
    picture = to_pixels(model.synthesise(found.y_hat.float()), height, width)
    share, error = pack.shares[index], quality.mse(found.pixels, picture)
    outcome = Outcome(
        data=pack.data[share.offset : share.offset + share.length],
        bits_y=share.coded.bits_y,
        bits_z=share.coded.bits_z,
        mse=error,
        rd_loss=share.net_bytes * 8 / (height * width) + recipe.lmbda * error,
        decode_seconds=decode_seconds + time.monotonic() - started,
        bits_back=share.coded.bits_back,
        net_bytes=share.net_bytes,
    )
    amortized = encode(model, [found.pixels], Recipe.amortized(recipe.lmbda))[0].outcome
    return Encoded(
        outcome=outcome,
        amortized=amortized,
        ms_ssim=quality.ms_ssim(found.pixels, picture),
        width=width,
        height=height,
        encode_seconds=seconds + time.monotonic() - started,
    )
