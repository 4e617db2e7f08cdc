"""How far one attempt at a unit is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from ncbatch.codec.methods import Recipe
from ncbatch.codec.recipe import RefinedRecipe
from ncbatch.plan.units import PlannedImage, Unit
from ncbatch.telemetry import instruments
from ncbatch.worker.beats import Beat, BeatSink, GiveBack

_SECONDS = 1.0
"""Between two beats."""


class UnitProgress:
    """How far one attempt at a unit is; reports it at most once a second.

    An image that is refined counts by its steps, any image counts fully when its row is there. Of images that
    go on with an inference after their last step, the steps are a part only.

    Any thread may call it.
    """

    def __init__(
        self,
        unit: Unit,
        attempt: str,
        recipe: Recipe,
        report: BeatSink | None,
        leaving: threading.Event | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pixels = {image.key: image.pixels for image in unit.images}
        self._total = max(unit.pixels, 1)
        self._attempt, self._report, self._clock = attempt, report, clock
        self._variant = unit.variant
        self._shares: dict[str, float] = {}
        self._taken: dict[str, int] = {}
        self._step, self._begun_at = 0, 0.0
        self._said_at = float("-inf")
        self._signs = 0
        self._leaving = leaving or threading.Event()
        self._lock = threading.Lock()
        self._steps, self._refined = 0, 0.0
        if isinstance(recipe, RefinedRecipe):
            self._steps, self._refined = recipe.steps, recipe.refined_share

    def at_steps(
        self, images: Sequence[PlannedImage], steps: Sequence[int], has_ended: Sequence[bool]
    ) -> None:
        """The images of a batch have taken so many steps, those of an earlier attempt included.

        has_ended: of each image, whether it takes no more steps; it counts as having taken all.
        """
        with self._lock:
            self._step = max(steps, default=0)
            for image, step, ended in zip(images, steps, has_ended, strict=True):
                share = self._refined * (1.0 if ended else min(step / max(self._steps, 1), 1.0))
                if image.key not in self._shares:  # it begins, or goes on from a state that was saved
                    self._begun_at += share * self._pixels[image.key] / self._total
                self._shares[image.key] = share
                instruments.STEPS.add(step - self._taken.get(image.key, step), variant=self._variant)
                self._taken[image.key] = step
            self._say()

    def done(self, key: str) -> None:
        """An image's row is there."""
        with self._lock:
            if key in self._pixels:
                self._shares[key] = 1.0
            self._say()

    def alive(self) -> None:
        """Something goes on that is neither a step nor a finished image."""
        with self._lock:
            self._signs += 1
            self._say()

    @property
    def leaving(self) -> bool:
        """Whether the unit is to be given back."""
        return self._leaving.is_set()

    def go_on(self) -> None:
        """To be called where the unit could be given back.

        Raises:
            GiveBack: it is to be.
        """
        if self.leaving:
            raise GiveBack

    @property
    def fraction(self) -> float:
        """How much of the unit's work is done, 0 to 1."""
        return sum(self._pixels[key] * share for key, share in self._shares.items()) / self._total

    def _say(self) -> None:
        now = self._clock()
        if self._report is not None and now - self._said_at >= _SECONDS:
            self._said_at = now
            asked = self._report(Beat(self._attempt, self.fraction, self._step, self._begun_at, self._signs))
            if asked:
                self._leaving.set()
