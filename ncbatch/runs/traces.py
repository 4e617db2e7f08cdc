"""How the refinements of a unit went: a side table with a row per picture and look."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ncbatch.codec.quality import psnr
from ncbatch.codec.refinement import Look, Refinement
from ncbatch.runs import layout
from ncbatch.runs.plan import PlannedImage, Unit
from ncbatch.store import Store

State = dict[str, torch.Tensor]

_SCHEMA = pa.schema(
    [
        ("variant", pa.string()),
        ("image_key", pa.string()),
        ("step", pa.int64()),
        ("tau", pa.float64()),
        ("information_bpp", pa.float64()),
        ("psnr", pa.float64()),
        ("rd_loss", pa.float64()),
    ]
)
_KEY = "trace"


class Tracer:
    """Looks at the refinements of one unit every so many steps, and writes what it saw.

    Args:
        every: steps between two looks; 0: never.
    """

    def __init__(self, output: Store, unit: Unit, every: int) -> None:
        self._output, self._unit, self._every = output, unit, every
        self._batch: list[list[Look]] = []
        self._rows: list[dict[str, Any]] = []

    def begin(self, state: State | None) -> None:
        """A batch begins, or goes on from a saved state."""
        self._batch = []
        if state is not None and _KEY in state:
            for looks in state[_KEY].tolist():
                self._batch.append(
                    [Look(int(s), None if math.isnan(t) else t, b, m, r) for s, t, b, m, r in looks]
                )

    def look(self, refinement: Refinement) -> None:
        wanted = self._every and (refinement.step % self._every == 0 or refinement.done)
        if wanted and not (self._batch and self._batch[-1][0].step == refinement.step):
            self._batch.append(refinement.looks())

    def state(self) -> State:
        """What `begin` needs to go on: float64[looks, pictures, 5]."""
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
        if not self._rows:
            return
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(self._rows, schema=_SCHEMA), sink, compression="zstd")
        self._output.put(layout.trace_key(self._unit.id), sink.getvalue())


def read_traces(output: Store) -> pa.Table:
    """All looks of a run, by variant, image and step; empty where nothing was traced."""
    tables = [
        pq.read_table(pa.BufferReader(output.get(info.key)), schema=_SCHEMA)
        for info in output.list(layout.TRACES_PREFIX)
    ]
    table = pa.concat_tables(tables) if tables else _SCHEMA.empty_table()
    return table.sort_by([("variant", "ascending"), ("image_key", "ascending"), ("step", "ascending")])
