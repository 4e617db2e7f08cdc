"""When an image has converged, by what its rounded latents gained over the last looks."""

from __future__ import annotations

import math

from ncbatch.codec.methods import Refined
from ncbatch.codec.recipe import FEW_PIXELS, LEAST_GAIN, SETTLED


class Convergence:
    """Counts an image's looks in a row without a gain worth their steps.

    Args:
        recipe: which says how many are too many.
        pixels: of the image. What the noise of a step does to its loss averages out over them, so that a look
            at a small image says less, and more of them are needed.

    Attributes:
        reference: the loss that a gain is counted from.
        without_gain: looks in a row.
    """

    def __init__(self, recipe: Refined, pixels: int) -> None:
        self._recipe = recipe
        self._patience = math.ceil(recipe.patience * max(1.0, math.sqrt(FEW_PIXELS / pixels)))
        self.reference, self.without_gain = float("inf"), 0

    def reached(self, step: int, best_loss: float) -> bool:
        """Whether the image has converged, after a look at this step."""
        recipe = self._recipe
        if not recipe.patience or not SETTLED * recipe.steps <= step < recipe.steps:
            return False
        if best_loss < self.reference - LEAST_GAIN * abs(best_loss):
            self.reference, self.without_gain = best_loss, 0
        else:
            self.without_gain += 1
        return self.without_gain >= self._patience
