"""Images to a pack: latents, posteriors, the file, and the proof that it decodes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ncbatch.codec.bits_back.bbvi import BbviSettings
from ncbatch.codec.bits_back.fixed_posterior import Posterior
from ncbatch.codec.bits_back.image_stack import InferredPosterior, infer_posteriors
from ncbatch.codec.bits_back.pack import Pack, PackItem, PackReader, write_pack
from ncbatch.codec.encode import Encoded, Pause, RefinementState, refine
from ncbatch.codec.errors import BitstreamError, PackCheckError, PosteriorMismatchError
from ncbatch.codec.measure import Baseline, Outcome, amortized_baseline, ms_ssim
from ncbatch.codec.methods import Packed
from ncbatch.codec.model.hyperprior import Model, to_pixels, to_tensor
from ncbatch.codec.recipe import RefinedRecipe
from ncbatch.codec.refinement.latents import round_y
from ncbatch.images import distortion
from ncbatch.images.pixels import Pixels

_DISTURBANCE = 1e-12
"""The decode check repeats inference from a slightly different start, so that what is chaotic fails here and
not where the pack is decoded. Undisturbed, this machine would always arrive at the same posterior."""


@dataclass(frozen=True)
class PackCandidate:
    """An image with what was found for it: y_hat and the posterior of z.

    Attributes:
        pixels: uint8[height, width, 3].
        inferred: its rounded latents and their posterior.
        method: as its entry in the pack says.
        amortized: what the encoder network alone gives, as a plain file; that file is never made.
        seconds: how long all of it took.
        steps_taken: of refinement.
    """

    pixels: Pixels
    inferred: InferredPosterior
    method: str
    amortized: Baseline
    seconds: float
    steps_taken: int

    @property
    def y_hat(self) -> Tensor:
        """The rounded latents, int32[1, M, h, w]."""
        return self.inferred.y_hat

    def state(self) -> RefinementState:
        """The findings as tensors by name, from which `restored` makes the candidate again."""
        posterior, corrections = self.inferred.posterior, self.inferred.corrections
        return {
            "y_hat": self.y_hat.cpu().contiguous(),
            "mean": torch.from_numpy(posterior.mean),
            "log_variance": torch.from_numpy(posterior.log_variance),
            "corrections": torch.tensor(corrections, dtype=torch.int64).reshape(-1, 2),
            "seconds": torch.tensor(self.seconds),
            "steps_taken": torch.tensor(self.steps_taken),
        }


@dataclass(frozen=True)
class VerifiedPack:
    """A pack that was decoded again and compared.

    Attributes:
        pack: the file, and each image's share of it.
        encoded: the encodings, in the order of the images.
        plain: the images that were coded without bits-back because they failed the decode check.
    """

    pack: Pack
    encoded: list[Encoded]
    plain: frozenset[int]


def inference_settings(recipe: Packed) -> BbviSettings:
    """How a recipe infers posteriors, which the decoder repeats."""
    steps, learning_rate = recipe.inference
    return BbviSettings(steps, learning_rate)


def find(
    model: Model,
    images: Sequence[Pixels],
    recipe: Packed,
    *,
    resume_from: RefinementState | None = None,
    on_pause: Pause | None = None,
) -> list[PackCandidate]:
    """Finds y_hat and q(z|y_hat) for images that share their padded shape; arguments as of `encode`.

    Raises:
        ModelError: the model is not of the kind bits-back.
        DivergedError, DecodeCheckError: as `encode`.
    """
    started = time.monotonic()
    if isinstance(recipe, RefinedRecipe):
        refinement = refine(model, images, recipe, resume_from, on_pause)
        y_hat, steps = refinement.best.y, refinement.steps_taken
        del refinement
    else:
        batch = torch.cat([to_tensor(image, model.device) for image in images])
        y_hat, steps = round_y(model.analyse(batch)[0]), [0] * len(images)
    posteriors = infer_posteriors(model, y_hat, inference_settings(recipe))
    shared = (time.monotonic() - started) / len(images)
    found = []
    for image, inferred, taken in zip(images, posteriors, steps, strict=True):
        started = time.monotonic()
        amortized = _amortized(model, image, recipe)
        seconds = shared + time.monotonic() - started
        found.append(PackCandidate(image, inferred, recipe.method, amortized, seconds, taken))
    return found


def restored(model: Model, pixels: Pixels, recipe: Packed, state: RefinementState) -> PackCandidate:
    """The candidate that `PackCandidate.state` was kept of, for the same image and recipe."""
    posterior = Posterior(state["mean"].numpy(), state["log_variance"].numpy())
    corrections = tuple((index, last_bit) for index, last_bit in state["corrections"].tolist())
    inferred = InferredPosterior(state["y_hat"].to(model.device), posterior, corrections)
    amortized = _amortized(model, pixels, recipe)
    seconds, steps = state["seconds"].item(), int(state["steps_taken"])
    return PackCandidate(pixels, inferred, recipe.method, amortized, seconds, steps)


def _amortized(model: Model, pixels: Pixels, recipe: Packed) -> Baseline:
    return amortized_baseline(model, pixels, recipe.lmbda).expected


def encode_pack(
    model: Model, images: Sequence[PackCandidate], recipe: Packed, *, side_information: bytes = b""
) -> VerifiedPack:
    """Codes images into a pack and decodes it again. An image that fails is coded without bits-back.

    Args:
        model: of the kind bits-back.
        images: found under `recipe`.
        recipe: the same for all.
        side_information: bytes that pay for the first image, and come out again.

    Raises:
        PackCheckError: an image does not come out even without bits-back.
    """
    items = [
        PackItem(found.inferred, found.method, found.pixels.shape[1], found.pixels.shape[0])
        for found in images
    ]
    plain: set[int] = set()
    while True:
        pack = write_pack(model, items, inference_settings(recipe), side_information)
        failed, decode_seconds = _check(model, items, pack, side_information)
        if failed is None:
            break
        if failed in plain:
            raise PackCheckError(failed)
        plain.add(failed)
        items[failed] = replace(items[failed], plain=True)
    encoded = [_measured(model, found, recipe, pack, i, decode_seconds[i]) for i, found in enumerate(images)]
    return VerifiedPack(pack, encoded, frozenset(plain))


def _check(
    model: Model, items: Sequence[PackItem], pack: Pack, side_information: bytes
) -> tuple[int | None, list[float]]:
    """Decodes a pack.

    Returns:
        the image that does not come out or give its bits back, or None; and the seconds that each took
        after those behind it in the pack, whose inference it waits for.
    """
    max_pixels = max(item.width * item.height for item in items)
    reader = PackReader(model, pack.data, max_pixels=max_pixels, disturbance=_DISTURBANCE)
    seconds = [0.0] * len(items)
    index, started = len(items), time.monotonic()
    try:
        for unpacked in reader.images():
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
    model: Model, found: PackCandidate, recipe: Packed, pack: Pack, index: int, decode_seconds: float
) -> Encoded:
    started = time.monotonic()
    height, width = found.pixels.shape[:2]
    image = to_pixels(model.synthesise(found.y_hat.float()), height, width)
    decode_seconds += time.monotonic() - started
    share, error = pack.shares[index], distortion.mse(found.pixels, image)
    outcome = Outcome(
        data=pack.data[share.offset : share.offset + share.length],
        bits_y=share.coded.bits_y,
        bits_z=share.coded.bits_z,
        mse=error,
        rd_loss=share.net_bytes * 8 / (height * width) + recipe.lmbda * error,
        decode_seconds=decode_seconds,
        bits_back=share.coded.bits_back,
        net_bytes=share.net_bytes,
    )
    return Encoded(
        outcome=outcome,
        amortized=found.amortized,
        ms_ssim=ms_ssim(model, found.pixels, image),
        width=width,
        height=height,
        encode_seconds=found.seconds + decode_seconds,
        device_seconds=found.seconds + decode_seconds,  # the decode check repeats the inference there
        steps_taken=found.steps_taken,
    )
