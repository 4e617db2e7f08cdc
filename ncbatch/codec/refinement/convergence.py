"""When an image has converged, by what its rounded latents gained over the last looks."""

from __future__ import annotations

import torch
from torch import Tensor

from ncbatch.codec.methods import Refined
from ncbatch.codec.recipe import LEAST_GAIN, SETTLED


class Convergence:
    """Counts, for each image of a batch, the looks in a row without a gain worth its steps.

    Args:
        recipe: which says how many are too many.
        images: how many there are.
    """

    def __init__(self, recipe: Refined, images: int) -> None:
        self._recipe = recipe
        self._reference, self._without_gain = [float("inf")] * images, [0] * images

    def reached(self, image: int, step: int, best_loss: float) -> bool:
        """Whether the image has converged, after a look at this step."""
        recipe, reference = self._recipe, self._reference[image]
        if not recipe.patience or not SETTLED * recipe.steps <= step < recipe.steps:
            return False
        if best_loss < reference - LEAST_GAIN * abs(best_loss):
            self._reference[image], self._without_gain[image] = best_loss, 0
        else:
            self._without_gain[image] += 1
        return self._without_gain[image] >= recipe.patience

    def state(self) -> dict[str, Tensor]:
        """What `restore` takes."""
        return {
            "converging.reference": torch.tensor(self._reference, dtype=torch.float64),
            "converging.without_gain": torch.tensor(self._without_gain),
        }

    def restore(self, reference: Tensor, without_gain: Tensor) -> None:
        """Goes on from a `state()` of the same images."""
        self._reference, self._without_gain = reference.tolist(), without_gain.tolist()
