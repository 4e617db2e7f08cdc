"""Refinement of one image towards a target: the search's tries, one after the other, on its latents."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from ncbatch.codec.decode import reconstruct
from ncbatch.codec.encode import Encoded, Pause, RefinementState, begin, coded
from ncbatch.codec.errors import DivergedError
from ncbatch.codec.measure import expected_bytes, measure, ms_ssim
from ncbatch.codec.methods import Refined
from ncbatch.codec.model.hyperprior import Latents, Model, to_tensor
from ncbatch.codec.recipe import STEPS_BETWEEN_PAUSES
from ncbatch.codec.refinement.loop import TracePoint
from ncbatch.codec.target import Measured, Sought, Target
from ncbatch.codec.target_search import TargetSearch, Try
from ncbatch.images import distortion
from ncbatch.images.pixels import Pixels

_AMORTIZED, _LEVELS, _SPENT, _KEPT = "search.amortized", "search.levels", "search.spent", "search.kept."


@dataclass(frozen=True)
class Ladder:
    """Models that a search may choose from.

    Attributes:
        lmbdas: that they were trained with, ascending.
        digests: of their checkpoints.
        load: gives a model by its digest; may be asked often.
    """

    lmbdas: tuple[float, ...]
    digests: tuple[str, ...]
    load: Callable[[str], Model]

    def model(self, index: int) -> Model:
        """A model by its place."""
        return self.load(self.digests[index])


@dataclass(frozen=True)
class TargetFound:
    """What a search came to, before it is coded.

    Attributes:
        model: by which.
        lmbda: with which.
        latents: the best.
        tries: how many values of lmbda there were.
        steps_taken: in all.
    """

    model: Model
    lmbda: float
    latents: Latents
    tries: int
    steps_taken: int


class TargetedRefinement:
    """A search in progress; `advance` it until `done`, then take `found`. See `Watched` for most of it.

    What an image becomes depends on its pixels, the recipe and the ladder only.

    Args:
        recipe: with a target.
        number: of the image in its batch.
        resume_from: a `state()` of the same image, recipe and ladder.

    Attributes:
        error: why there is no result.
        seconds: that it took so far, without those of interrupted attempts.
    """

    def __init__(
        self,
        ladder: Ladder,
        pixels: Pixels,
        recipe: Refined,
        number: int = 0,
        resume_from: RefinementState | None = None,
    ) -> None:
        assert recipe.target is not None
        started = time.monotonic()
        self._ladder, self._pixels, self._recipe, self._number = ladder, pixels, recipe, number
        self._target: Target = recipe.target
        state = resume_from or {}
        known = state[_AMORTIZED].tolist() if state else [math.nan] * len(ladder.lmbdas)
        self._amortized = {index: level for index, level in enumerate(known) if not math.isnan(level)}
        self._search = TargetSearch(self._target, ladder.lmbdas, self._amortized_level)
        self._levels: list[float] = []
        self._spent = self._first = 0
        self._kept: Latents | None = None
        self.error: DivergedError | None = None
        if state:
            self._resume(state)
        else:
            self._begin()
        self.seconds = time.monotonic() - started

    def _resume(self, state: RefinementState) -> None:
        self._levels, self._spent = state[_LEVELS].tolist(), int(state[_SPENT])
        for level in self._levels:
            self._search.tell(level)
        if f"{_KEPT}y" in state:
            kept = (state[f"{_KEPT}{name}"].to(self._model.device) for name in "yz")
            self._kept = Latents(*kept)
        self._work = begin(self._model, [self._pixels], self._with_lmbda)
        self._work.restore(state)
        self._first = self._step_of(self._asked.first, self._asked)

    def _begin(self) -> None:
        """Begins the try that is asked for."""
        asked = self._asked
        self._first = self._step_of(asked.first, asked)
        if asked.anew:
            self._work = begin(self._model, [self._pixels], self._with_lmbda)
        else:
            self._work.turn(self._with_lmbda, self._first)

    @property
    def _asked(self) -> Try:
        asked = self._search.ask()
        assert asked is not None, "the search is over"
        return asked

    @property
    def _model(self) -> Model:
        return self._ladder.model(self._asked.model)

    @property
    def _with_lmbda(self) -> Refined:
        return self._recipe.model_copy(update={"lmbda": self._asked.lmbda})

    def _step_of(self, share: float, asked: Try) -> int:
        step = round(share * self._recipe.steps)
        return min(step, self._recipe.steps - 1) if share == asked.first else step

    def _amortized_level(self, index: int) -> float:
        if index not in self._amortized:
            model = self._ladder.model(index)
            self._amortized[index] = level_of(
                self._target, model, self._pixels, amortized(model, self._pixels)
            )
        return self._amortized[index]

    def advance(self, steps: int) -> None:
        """Takes up to `steps` steps, of one try. An image that diverges ends, with what was found before."""
        started = time.monotonic()
        last = self._step_of(self._asked.last, self._asked)
        self._work.advance(min(steps, last - self._work.step))
        (error,) = self._work.errors
        if error is not None:
            self.error = error if self._search.best is None else None
            self._search.end()
        elif self._work.done or self._work.step >= last:
            self._tell()
        self.seconds += time.monotonic() - started

    def _tell(self) -> None:
        """Says what came of a try, and begins the next."""
        latents = self._work.best if self._asked.last == 1 else self._work.rounded
        level = level_of(self._target, self._model, self._pixels, latents)
        best = self._search.best
        self._spent += self._work.step - self._first
        self._search.tell(level)
        self._levels.append(level)
        if self._search.best != best:
            self._kept = latents
        if self._search.ask() is not None:
            self._begin()

    @property
    def found(self) -> TargetFound:
        """The result of a search that is done."""
        assert self._search.best is not None and self._kept is not None
        chosen = self._search.tries[self._search.best]
        tries = len({(each.model, each.lmbda) for each in self._search.tries})
        model = self._ladder.model(chosen.model)
        return TargetFound(model, chosen.lmbda, self._kept, tries, self.step)

    @property
    def numbers(self) -> list[int]:
        """Of its image."""
        return [self._number]

    @property
    def step(self) -> int:
        """Steps of all tries so far."""
        return self._spent if self.done else self._spent + self._work.step - self._first

    @property
    def steps_taken(self) -> list[int]:
        """By its image."""
        return [self.step]

    @property
    def done(self) -> bool:
        """Whether its result is final."""
        return self._search.ask() is None

    @property
    def has_ended(self) -> list[bool]:
        """Whether its image's result is final."""
        return [self.done]

    def looks(self) -> list[TracePoint]:
        """The look at its image, at the steps of all tries so far."""
        return [replace(look, step=self.step) for look in self._work.looks()]

    def state(self) -> RefinementState:
        """Everything needed to go on later; not to be asked for once it is done."""
        known = [self._amortized.get(index, math.nan) for index in range(len(self._ladder.lmbdas))]
        found = {
            _AMORTIZED: torch.tensor(known, dtype=torch.float64),
            _LEVELS: torch.tensor(self._levels, dtype=torch.float64),
            _SPENT: torch.tensor(self._spent),
        }
        if self._kept is not None:
            found |= {f"{_KEPT}{name}": getattr(self._kept, name).cpu() for name in "yz"}
        return self._work.state() | found | {"step": torch.tensor(self.step)}


def amortized(model: Model, pixels: Pixels) -> Latents:
    """What the encoder network alone gives, rounded."""
    return model.round(*model.analyse(to_tensor(pixels, model.device)))


def level_of(target: Target, model: Model, pixels: Pixels, latents: Latents) -> float:
    """The level of latents that are not coded; no more is computed than it needs."""
    height, width = pixels.shape[:2]
    size, psnr, quality = 0, 0.0, None
    if target.is_rate:
        size = expected_bytes(height, width, sum(bits.item() for bits in model.information(latents)))
    else:
        image = reconstruct(model, latents, height, width)
        psnr = distortion.psnr(distortion.mse(pixels, image))
        if target.measure == "ssim":
            quality = ms_ssim(model, pixels, image)
    return target.level_of(Measured(size, height * width, psnr, quality))


def nearest_model(ladder: Ladder, pixels: Pixels, target: Target) -> Model:
    """The model with which a search would begin, by the amortized encodings."""

    def level(index: int) -> float:
        model = ladder.model(index)
        return level_of(target, model, pixels, amortized(model, pixels))

    first = TargetSearch(target, ladder.lmbdas, level).ask()
    assert first is not None
    return ladder.model(first.model)


def search(
    ladder: Ladder,
    pixels: Pixels,
    recipe: Refined,
    *,
    number: int = 0,
    resume_from: RefinementState | None = None,
    on_pause: Pause | None = None,
) -> tuple[TargetFound | DivergedError, float]:
    """Carries a search to its end; arguments as of `TargetedRefinement` and `codec.encode.encode`.

    Returns:
        what was found, or why nothing was, and the seconds that it took.
    """
    work = TargetedRefinement(ladder, pixels, recipe, number, resume_from)
    on_pause = on_pause or (lambda refinement: None)
    on_pause(work)
    while not work.done:
        work.advance(STEPS_BETWEEN_PAUSES)
        on_pause(work)
    return work.error or work.found, work.seconds


def finish_found(pixels: Pixels, recipe: Refined, found: TargetFound, seconds: float) -> Encoded:
    """Codes and verifies what a search found, as `codec.encode.finish`.

    Raises:
        DecodeCheckError: the bytes do not decode to the latents they were made from.
    """
    assert recipe.target is not None
    started, model = time.monotonic(), found.model
    baseline = measure(model, pixels, amortized(model, pixels), found.lmbda)
    chosen = measure(model, pixels, found.latents, found.lmbda)
    outcome = coded(model, chosen, recipe.method)
    quality = ms_ssim(model, pixels, chosen.image)
    height, width = pixels.shape[:2]
    measured = Measured(outcome.bytes, height * width, outcome.psnr, quality)
    return Encoded(
        outcome=outcome,
        amortized=baseline.expected,
        ms_ssim=quality,
        width=width,
        height=height,
        encode_seconds=seconds + time.monotonic() - started,
        device_seconds=seconds,
        steps_taken=found.steps_taken,
        sought=Sought.of(recipe.target, measured, model.digest, found.lmbda, found.tries),
    )


def encode_to_target(ladder: Ladder, pixels: Pixels, recipe: Refined) -> Encoded:
    """Encodes one image; errors as of `codec.encode.encode`."""
    found, seconds = search(ladder, pixels, recipe)
    if isinstance(found, DivergedError):
        raise found
    return finish_found(pixels, recipe, found, seconds)
