"""How the refinements of a unit went: a side table with a row per image and look.

An image that is adopted from an earlier attempt, or was kept by one for its pack, was not refined here and
has no looks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from ncbatch.codec.refinement.batch import Refinement
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
        self._batch: list[list[TracePoint]] = []
        self._rows: list[dict[str, Any]] = []

    def begin(self, state: TracerState | None) -> None:
        """A batch begins, or goes on from a saved state."""
        self._batch = []
        if state is not None and _KEY in state:
            for looks in state[_KEY].tolist():
                self._batch.append(
                    [TracePoint(int(s), None if math.isnan(t) else t, b, m, r) for s, t, b, m, r in looks]
                )

    def look(self, refinement: Refinement) -> None:
        """Keeps rate and distortion of the batch's images if the step is one to be traced."""
        wanted = self._every and (refinement.step % self._every == 0 or refinement.done)
        if wanted and not (self._batch and self._batch[-1][0].step == refinement.step):
            self._batch.append(refinement.looks())

    def state(self) -> TracerState:
        """What `begin` needs to go on: float64[looks, images, 5]."""
        if not self._batch:
            return {}
        rows = [
            [
                (k.step, math.nan if k.tau is None else k.tau, k.information_bpp, k.mse, k.rd_loss)
                for k in looks
            ]
            for looks in self._batch
        ]
        return {_KEY: torch.tensor(rows, dtype=torch.float64)}

    def end(self, images: Sequence[PlannedImage]) -> None:
        """The batch is done."""
        for looks in self._batch:
            for image, look in zip(images, looks, strict=True):
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
        self._batch = []

    def write(self) -> None:
        """To be called before the unit's commit."""
        if self._rows:
            write_trace(self._output, self._unit.id, self._rows)
