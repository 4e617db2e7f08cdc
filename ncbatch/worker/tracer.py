"""How the refinements of a unit went: a side table with a row per image and look.

An image that is adopted from an earlier attempt, or was kept by one for its pack, was not refined here and
has no looks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from ncbatch.codec.refinement.batch import Watched
from ncbatch.codec.refinement.loop import TracePoint
from ncbatch.images.distortion import psnr
from ncbatch.metrics.traces import write_trace
from ncbatch.plan.units import PlannedImage, Unit
from ncbatch.store import Store

TracerState = dict[str, torch.Tensor]

_KEY = "trace"


class Tracer:
    """Keeps rate and distortion of the refinements of one unit every so many steps, and writes them.

    Args:
        output: the run's folder.
        unit: whose refinements.
        every: steps between two looks; 0 keeps none.
    """

    def __init__(self, output: Store, unit: Unit, every: int) -> None:
        self._output, self._unit, self._every = output, unit, every
        self._looks: dict[str, list[TracePoint]] = {}  # of images that are not done, by their keys
        self._rows: list[dict[str, Any]] = []

    def begin(self, images: Sequence[PlannedImage], state: TracerState | None) -> None:
        """A batch begins, or goes on from a saved state."""
        self._looks = {image.key: [] for image in images}
        if state is None or _KEY not in state:
            return
        for image, looks in zip(images, state[_KEY].tolist(), strict=True):
            self._looks[image.key] = [
                TracePoint(int(s), None if math.isnan(t) else t, b, m, r)
                for s, t, b, m, r in looks
                if not math.isnan(s)
            ]

    def look(self, refinement: Watched, images: Sequence[PlannedImage]) -> None:
        """Keeps rate and distortion of the images whose step is one to be traced; `images` are the
        refinement's.
        """
        if not self._every:
            return
        told = zip(images, refinement.steps_taken, refinement.has_ended, strict=True)
        wanted = [
            index
            for index, (image, step, ended) in enumerate(told)
            if (step % self._every == 0 or ended) and not self._has(image, step)
        ]
        if wanted:
            looks = refinement.looks()
            for index in wanted:
                self._looks.setdefault(images[index].key, []).append(looks[index])

    def _has(self, image: PlannedImage, step: int) -> bool:
        looks = self._looks.get(image.key, [])
        return bool(looks) and looks[-1].step == step

    def state(self, images: Sequence[PlannedImage]) -> TracerState:
        """What `begin` needs to go on with these images: float64[images, looks, 5], NaN behind the last look
        of an image.
        """
        traced = [self._looks.get(image.key, []) for image in images]
        if not any(traced):
            return {}
        rows = torch.full((len(images), max(map(len, traced)), 5), math.nan, dtype=torch.float64)
        for index, looks in enumerate(traced):
            for place, k in enumerate(looks):
                tau = math.nan if k.tau is None else k.tau
                values = [k.step, tau, k.information_bpp, k.mse, k.rd_loss]
                rows[index, place] = torch.tensor(values, dtype=torch.float64)
        return {_KEY: rows}

    def end(self, image: PlannedImage) -> None:
        """The image is done."""
        for look in self._looks.pop(image.key, []):
            self._rows.append(
                {
                    "variant": self._unit.variant,
                    "image_key": image.key,
                    "step": look.step,
                    "tau": look.tau,
                    "information_bpp": look.information_bpp,
                    "psnr": psnr(look.mse),
                    "rd_loss": look.rd_loss,
                }
            )

    def write(self) -> None:
        """To be called before the unit's commit."""
        if self._rows:
            write_trace(self._output, self._unit.id, self._rows)
