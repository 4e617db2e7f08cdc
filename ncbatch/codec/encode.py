"""Images to bytes: analysis, refinement, coding, and the proof that the bytes decode."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ncbatch.codec import ans, bitstream
from ncbatch.codec.decode import decode_latents
from ncbatch.codec.errors import DecodeCheckError, DivergedError
from ncbatch.codec.gaussian_tables import coarse
from ncbatch.codec.measure import Baseline, Outcome, Reconstruction, measure, ms_ssim
from ncbatch.codec.methods import Learned, Refined
from ncbatch.codec.model.hyperprior import Latents, Model, to_tensor
from ncbatch.codec.recipe import STEPS_BETWEEN_PAUSES, RefinedRecipe
from ncbatch.codec.refinement.batch import Refinement, Watched
from ncbatch.codec.refinement.canvas import Shape, padded
from ncbatch.codec.refinement.loop import Target
from ncbatch.codec.refinement.noise import ImageNoise
from ncbatch.codec.target import Sought
from ncbatch.images.pixels import Pixels

RefinementState = dict[str, Tensor]
Pause = Callable[[Watched], None]
Refill = Callable[[Sequence[int]], Sequence[Pixels]]
"""Given the numbers of the images that go on, further images that fit in their tensors to go on with."""


@dataclass(frozen=True)
class Encoded:
    """One image, encoded and verified.

    Attributes:
        outcome: what is to be published: the amortized encoding where refinement could not improve on it.
        amortized: what the encoder network alone gives; None of a classical codec.
        ms_ssim: mean over the channels; None for images that are too small for it.
        width: in pixels.
        height: in pixels.
        encode_seconds: this image's share of its batch's time, and that of coding, decode check and measures.
        device_seconds: the former of these: for how long it kept the device busy.
        steps_taken: of refinement; fewer than asked for where the image had converged; None where unknown.
        sought: of a recipe with a target: how it was met.
        tail_bytes: of the file, that are not the image's.
    """

    outcome: Outcome
    amortized: Baseline | None
    ms_ssim: float | None
    width: int
    height: int
    encode_seconds: float
    device_seconds: float
    steps_taken: int | None = None
    sought: Sought | None = None
    tail_bytes: int = 0


@dataclass(frozen=True)
class FoundLatents:
    """What was found for one image on the device, before any of it is coded.

    Attributes:
        amortized: by the encoder network alone.
        best: after refinement; the amortized ones where there is none.
        seconds: this image's share of its batch's time.
        steps_taken: of refinement.
    """

    amortized: Latents
    best: Latents
    seconds: float
    steps_taken: int


def padded_shape(pixels: Pixels) -> Shape:
    """Height and width after padding."""
    height, width = pixels.shape[:2]
    return padded(height, width)


def encode(
    model: Model,
    images: Sequence[Pixels],
    recipe: Learned,
    *,
    resume_from: RefinementState | None = None,
    on_pause: Pause | None = None,
) -> list[Encoded]:
    """Encodes a batch of images.

    Args:
        model: of the kind base.
        images: uint8[height, width, 3] each.
        recipe: how their latents are found.
        resume_from: `Refinement.state()` of an interrupted refinement of the same images under the same
            recipe.
        on_pause: called before the first step and then every few steps; may save the refinement's state, or
            raise to stop.

    Returns:
        The encodings, in the order of the images.

    Raises:
        DivergedError: the refinement left the finite numbers.
        DecodeCheckError: the bytes do not decode to the latents they were made from.
    """
    found: dict[int, FoundLatents] = {}
    for number, latents in find_latents(model, images, recipe, resume_from=resume_from, on_pause=on_pause):
        if isinstance(latents, DivergedError):
            raise latents
        found[number] = latents
    return [finish(model, image, recipe, found[number]) for number, image in enumerate(images)]


def find_latents(
    model: Model,
    images: Sequence[Pixels],
    recipe: Learned,
    *,
    resume_from: RefinementState | None = None,
    on_pause: Pause | None = None,
    refill: Refill | None = None,
) -> Iterator[tuple[int, FoundLatents | DivergedError]]:
    """The first part of `encode`, which keeps the device busy; arguments as there.

    Args:
        refill: asked as places get free, while images go on.

    Returns:
        the number of each image, counted as they came, and its latents; in the order in which they are found.
    """
    if not isinstance(recipe, RefinedRecipe):
        yield from _unrefined(model, images)
        return
    clock = _Clock()
    with clock.of(range(len(images))):
        refinement = begin(model, images, recipe)
    on_pause = on_pause or (lambda refinement: None)
    if resume_from is not None:
        refinement.restore(resume_from)
    on_pause(refinement)
    while refinement.numbers:
        with clock.of(refinement.going_on):
            refinement.advance(STEPS_BETWEEN_PAUSES)
        on_pause(refinement)
        for ended in refinement.take_ended():
            seconds = clock.seconds.pop(ended.number)
            found = FoundLatents(ended.amortized, ended.best, seconds, ended.steps_taken)
            yield ended.number, ended.error or found
        if refill is None or not refinement.numbers or not refinement.may_join:
            continue
        more = refill(refinement.numbers)
        if more:
            with clock.of(range(refinement.joined, refinement.joined + len(more))):
                refinement.join(*_begun(model, more, recipe))
            on_pause(refinement)


def _unrefined(model: Model, images: Sequence[Pixels]) -> Iterator[tuple[int, FoundLatents]]:
    started = time.monotonic()
    amortized = [model.round(*model.analyse(to_tensor(image, model.device))) for image in images]
    seconds = (time.monotonic() - started) / len(images)
    for number, latents in enumerate(amortized):
        yield number, FoundLatents(latents, latents, seconds, 0)


class _Clock:
    """Divides the device's time among the images it is spent on.

    Attributes:
        seconds: by the image's number.
    """

    def __init__(self) -> None:
        self.seconds: dict[int, float] = {}

    @contextmanager
    def of(self, numbers: Collection[int]) -> Iterator[None]:
        """The block's time is these images'."""
        started = time.monotonic()
        yield
        share = (time.monotonic() - started) / max(len(numbers), 1)
        for number in numbers:
            self.seconds[number] = self.seconds.get(number, 0.0) + share


def begin(model: Model, images: Sequence[Pixels], recipe: Refined) -> Refinement:
    """The refinement of a batch; with bits-back, of images that share their padded shape."""
    return Refinement(model, *_begun(model, images, recipe), recipe)


def _begun(model: Model, images: Sequence[Pixels], recipe: Refined) -> tuple[list[Tensor], list[Target]]:
    """The images as a refinement takes them, and what it has to know of each."""
    targets = [Target(p.shape[0], p.shape[1], ImageNoise(recipe.seed, _fingerprint(p))) for p in images]
    return [to_tensor(image, model.device)[0] for image in images], targets


def refine(
    model: Model,
    images: Sequence[Pixels],
    recipe: Refined,
    resume_from: RefinementState | None,
    on_pause: Pause | None,
) -> Refinement:
    """Carries a refinement to its end; arguments and errors as of `encode`."""
    refinement = begin(model, images, recipe)
    if resume_from is not None:
        refinement.restore(resume_from)
    on_pause = on_pause or (lambda refinement: None)
    on_pause(refinement)
    while not refinement.done:
        refinement.advance(STEPS_BETWEEN_PAUSES)
        on_pause(refinement)
        for error in filter(None, refinement.errors):
            raise error
    return refinement


def _fingerprint(pixels: Pixels) -> bytes:
    """Identifies an image by its content, so that noise follows it whatever its name."""
    return hashlib.sha256(str(pixels.shape).encode() + np.ascontiguousarray(pixels).tobytes()).digest()


def finish(model: Model, pixels: Pixels, recipe: Learned, found: FoundLatents) -> Encoded:
    """The second part of `encode`, for one image: coding, decode check and measures, mostly on the CPU.

    Of the two latents only those that are published are coded. Several threads may finish images of one model
    at once.

    Raises:
        DecodeCheckError: as `encode`.
    """
    amortized, best = found.amortized, found.best
    started = time.monotonic()
    baseline = chosen = measure(model, pixels, amortized, recipe.lmbda, recipe.ms_ssim_weight)
    method = "amortized"
    if not best.equals(amortized):
        refined = measure(model, pixels, best, recipe.lmbda, recipe.ms_ssim_weight)
        # Both as the information content says: like is compared with like, and the loser is never coded.
        if refined.expected.rd_loss < baseline.expected.rd_loss:
            chosen, method = refined, recipe.method
    outcome = coded(model, chosen, method)
    return Encoded(
        outcome=outcome,
        amortized=outcome.as_baseline() if chosen is baseline else baseline.expected,
        ms_ssim=ms_ssim(model, pixels, chosen.image),
        width=pixels.shape[1],
        height=pixels.shape[0],
        encode_seconds=found.seconds + time.monotonic() - started,
        device_seconds=found.seconds,
        steps_taken=found.steps_taken,
    )


def coded(model: Model, found: Reconstruction, method: str) -> Outcome:
    """Codes latents, and decodes the bytes again: they are what the measures say only if these latents come
    out.
    """
    height, width = found.image.shape[:2]
    data = write(model, found.latents, method, height, width)
    started = time.monotonic()
    decoded = decode_latents(model, bitstream.parse(data, max_pixels=height * width))
    seconds = time.monotonic() - started
    if not decoded.equals(found.latents):
        raise DecodeCheckError("the coded bytes do not decode to the latents they were made from")
    return found.outcome(data, seconds)


def evaluate(
    model: Model, pixels: Pixels, data: bytes, lmbda: float, ms_ssim_weight: float = 0.0
) -> tuple[Reconstruction, Outcome]:
    """Decodes an `.ncb` file and compares it with the image it was made from.

    Raises:
        BitstreamError, WrongModelError: as `decode.decode`.
        DecodeCheckError: the file holds an image of another size.
    """
    started = time.monotonic()
    stream = bitstream.parse(data, max_pixels=pixels.size)
    if (stream.height, stream.width) != pixels.shape[:2]:
        raise DecodeCheckError("the file holds an image of another size")
    latents = decode_latents(model, stream)
    seconds = time.monotonic() - started
    found = measure(model, pixels, latents, lmbda, ms_ssim_weight)
    return found, found.outcome(data, seconds)


def write(model: Model, latents: Latents, method: str, height: int, width: int) -> bytes:
    """The `.ncb` file of one image's latents."""
    _, sigma = model.coding_parameters(latents.z)
    stack = ans.new_coder()
    ans.push_gaussian(stack, latents.y[0].cpu().numpy(), coarse(sigma[0].cpu().numpy()))
    model.z_tables.push(stack, latents.z[0].cpu().numpy())
    payload = ans.payload_of(stack)
    digest = bitstream.short_digest(model.digest)
    return bitstream.serialise(bitstream.Bitstream(method, digest, width, height, payload))
