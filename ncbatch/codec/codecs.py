"""What a recipe does with images: through a model, or by a classical codec."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from ncbatch.codec import bitstream
from ncbatch.codec.bits_back.encode import PackCandidate, VerifiedPack, encode_pack, find, restored
from ncbatch.codec.classical import decode_classical, encode_classical
from ncbatch.codec.encode import (
    Encoded,
    Pause,
    Refill,
    RefinementState,
    encode,
    evaluate,
    find_latents,
    finish,
)
from ncbatch.codec.errors import BitstreamError, DecodeCheckError, DivergedError, ModelError
from ncbatch.codec.measure import Outcome, amortized_baseline, ms_ssim
from ncbatch.codec.methods import Amortized, Classical, Learned, Packed, Refined, SgaBitsBack
from ncbatch.codec.model.hyperprior import Model
from ncbatch.codec.target import TARGET_FIELDS, Measured, Sought
from ncbatch.codec.targeted import Ladder, finish_found, nearest_model, search
from ncbatch.images import distortion
from ncbatch.images.pixels import Pixels

_ADOPTABLE = 1.01  # a standing bitstream may be this much worse than the amortized one, by rounding
_ADOPTABLE_FOR_TARGET = (
    1.5  # the same where lmbda was another than the model's own; other images are far worse
)

Finish = Callable[[], Encoded]
"""Does what is left of one image's encoding; in any thread. Raises DecodeCheckError."""


@dataclass(frozen=True)
class LearnedCoder:
    """Refines and codes latents."""

    model: Model
    recipe: Learned

    def encode(self, images: Sequence[Pixels]) -> list[Encoded]:
        """Encodes a batch; errors as `codec.encode.encode`."""
        return encode(self.model, images, self.recipe)

    def find(
        self,
        images: Sequence[Pixels],
        resume_from: RefinementState | None = None,
        on_pause: Pause | None = None,
        refill: Refill | None = None,
    ) -> Iterator[tuple[int, Finish | DivergedError]]:
        """Finds the latents of a batch, for each image to be finished; as `codec.encode.find_latents`."""
        all_images = list(images)

        def more(going_on: Sequence[int]) -> Sequence[Pixels]:
            found = refill(going_on) if refill is not None else []
            all_images.extend(found)
            return found

        for number, found in find_latents(
            self.model, images, self.recipe, resume_from=resume_from, on_pause=on_pause, refill=more
        ):
            if isinstance(found, DivergedError):
                yield number, found
            else:
                yield number, partial(finish, self.model, all_images[number], self.recipe, found)

    def amortized(self, pixels: Pixels) -> Encoded:
        """The image's encoding by the encoder network alone."""
        ((_, found),) = find_latents(self.model, [pixels], Amortized(lmbda=self.recipe.lmbda))
        assert not isinstance(found, DivergedError)
        return finish(self.model, pixels, self.recipe, found)

    def measured(self, pixels: Pixels, data: bytes, worse: float = _ADOPTABLE) -> Encoded | None:
        """Rate and distortion of a bitstream that was found.

        Args:
            worse: by which factor its R-D loss may exceed that of the amortized encoding.

        Returns:
            None where it is not this image's by this variant.
        """
        recipe = self.recipe
        try:
            found, outcome = evaluate(self.model, pixels, data, recipe.lmbda, recipe.ms_ssim_weight)
        except (BitstreamError, ModelError, DecodeCheckError):
            return None
        amortized = amortized_baseline(self.model, pixels, recipe.lmbda, recipe.ms_ssim_weight)
        if found.expected.rd_loss > amortized.expected.rd_loss * worse:
            return None
        is_amortized = found.latents.equals(amortized.latents)
        return Encoded(
            outcome=outcome,
            amortized=outcome.as_baseline() if is_amortized else amortized.expected,
            ms_ssim=ms_ssim(self.model, pixels, found.image),
            width=pixels.shape[1],
            height=pixels.shape[0],
            encode_seconds=0.0,
            device_seconds=0.0,
        )


@dataclass(frozen=True)
class TargetCoder:
    """Searches, image by image, for the lmbda and the model of a ladder that meet a recipe's target."""

    ladder: Ladder
    recipe: Refined

    def plain(self) -> LearnedCoder:
        """What one try does, by the ladder's middle model: to measure how long things take."""
        recipe = self.recipe.model_copy(update=dict.fromkeys(TARGET_FIELDS))
        return LearnedCoder(self.ladder.model(len(self.ladder.digests) // 2), recipe)

    def find(
        self,
        images: Sequence[Pixels],
        resume_from: RefinementState | None = None,
        on_pause: Pause | None = None,
        refill: Refill | None = None,
    ) -> Iterator[tuple[int, Finish | DivergedError]]:
        """Finds the latents of images, one after the other: each is at steps, and by models, of its own.

        Args:
            resume_from: of the only image.
            Others: as of `LearnedCoder.find`; no image joins.
        """
        for number, pixels in enumerate(images):
            found, seconds = search(
                self.ladder, pixels, self.recipe, number=number, resume_from=resume_from, on_pause=on_pause
            )
            if isinstance(found, DivergedError):
                yield number, found
            else:
                yield number, partial(finish_found, pixels, self.recipe, found, seconds)

    def amortized(self, pixels: Pixels) -> Encoded:
        """The encoding by the encoder network alone, of the model that comes nearest to the target."""
        assert self.recipe.target is not None
        model = nearest_model(self.ladder, pixels, self.recipe.target)
        found = LearnedCoder(model, self.recipe.model_copy(update={"lmbda": model.info.lmbda})).amortized(
            pixels
        )
        return replace(found, sought=self._sought(found, model.digest, model.info.lmbda))

    def measured(self, pixels: Pixels, data: bytes) -> Encoded | None:
        """Rate and distortion of a bitstream that was found; with which lmbda it was made cannot be told.

        Returns:
            None where it is not this image's, or misses the target: whether a better one can be found is not
            known then. A search that finds none ends with the same bytes.
        """
        try:
            digest = bitstream.parse(data, max_pixels=pixels.size).model_digest
        except BitstreamError:
            return None
        for index, whole in enumerate(self.ladder.digests):
            if bitstream.short_digest(whole) == digest:
                lmbda = self.ladder.lmbdas[index]
                coder = LearnedCoder(
                    self.ladder.model(index), self.plain().recipe.model_copy(update={"lmbda": lmbda})
                )
                return self._adopted(coder.measured(pixels, data, _ADOPTABLE_FOR_TARGET), whole)
        return None

    def _adopted(self, found: Encoded | None, digest: str) -> Encoded | None:
        if found is None:
            return None
        sought = self._sought(found, digest)
        return replace(found, sought=sought) if sought.met else None

    def _sought(self, found: Encoded, digest: str, lmbda: float | None = None) -> Sought:
        assert self.recipe.target is not None
        area = found.width * found.height
        measured = Measured(found.outcome.bytes, area, found.outcome.psnr, found.ms_ssim)
        return Sought.of(self.recipe.target, measured, digest, lmbda)


@dataclass(frozen=True)
class PackCoder:
    """Finds latents and posteriors image by image, and codes them together with bits-back."""

    model: Model
    recipe: Packed

    def find(
        self,
        images: Sequence[Pixels],
        resume_from: RefinementState | None = None,
        on_pause: Pause | None = None,
        refill: Refill | None = None,
    ) -> Iterator[tuple[int, PackCandidate]]:
        """Finds latents and posteriors of a batch; errors as of `bits_back.encode.find`.

        No image joins: the inference of posteriors, which comes after refinement, takes all of them together.
        """
        found = find(self.model, images, self.recipe, resume_from=resume_from, on_pause=on_pause)
        yield from enumerate(found)

    def unrefined(self, images: Sequence[Pixels]) -> list[PackCandidate]:
        """As `find`, with the encoder network's latents, where refinement diverged."""
        unrefined = self.recipe.unrefined() if isinstance(self.recipe, SgaBitsBack) else self.recipe
        return find(self.model, images, unrefined)

    def restored(self, pixels: Pixels, state: RefinementState) -> PackCandidate:
        """The candidate whose `state()` was kept."""
        return restored(self.model, pixels, self.recipe, state)

    def pack(self, images: Sequence[PackCandidate]) -> VerifiedPack:
        """Codes candidates into a verified pack; errors as of `bits_back.encode.encode_pack`."""
        return encode_pack(self.model, images, self.recipe)

    def encode(self, images: Sequence[Pixels]) -> list[Encoded]:
        """Encodes images into one pack; the encodings are in the order of the images."""
        return self.pack([found for _, found in self.find(images)]).encoded


@dataclass(frozen=True)
class ClassicalCoder:
    """Files of another codec, measured as ours are: on what decodes from the real bytes."""

    recipe: Classical

    def encode(self, images: Sequence[Pixels]) -> list[Encoded]:
        """Encodes images one by one.

        Raises:
            DecodeCheckError: the codec cannot code an image, or what it wrote does not decode to its size.
        """
        return [self._encode(pixels) for pixels in images]

    def find(
        self,
        images: Sequence[Pixels],
        resume_from: RefinementState | None = None,
        on_pause: Pause | None = None,
        refill: Refill | None = None,
    ) -> Iterator[tuple[int, Finish]]:
        """Nothing is done on a device: all of the encoding is left to be finished."""
        for number, pixels in enumerate(images):
            yield number, partial(self._encode, pixels)

    def _encode(self, pixels: Pixels) -> Encoded:
        height, width = pixels.shape[:2]
        started = time.monotonic()
        data = encode_classical(self.recipe, pixels)
        coded = time.monotonic()
        try:
            image = decode_classical(self.recipe, data, max_pixels=pixels.size)
        except BitstreamError as error:
            raise DecodeCheckError(f"what was coded does not decode: {error}") from error
        decode_seconds = time.monotonic() - coded
        if image.shape != pixels.shape:
            raise DecodeCheckError("what was coded decodes to an image of another size")
        outcome = Outcome(data, None, None, distortion.mse(pixels, image), None, decode_seconds)
        seconds = coded - started
        return Encoded(outcome, None, distortion.ms_ssim(pixels, image), width, height, seconds, seconds)

    def measured(self, pixels: Pixels, data: bytes) -> Encoded | None:
        """Rate and distortion of a file that was found.

        Returns:
            None where coding the image again gives other bytes: then it is not this image's.
        """
        try:
            encoded = self._encode(pixels)
        except DecodeCheckError:
            return None
        return encoded if encoded.outcome.data == data else None


Coder = LearnedCoder | TargetCoder | ClassicalCoder
"""Of variants with a file per image."""
