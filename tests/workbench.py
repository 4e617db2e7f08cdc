"""A corpus, an output and what is needed to do units of a run between them, without Ray."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from ncbatch import layout
from ncbatch.codec.decode import decode
from ncbatch.codec.methods import Amortized, Recipe, Sga
from ncbatch.codec.model.hyperprior import Model
from ncbatch.metrics.schema import Row, parquet_to_table
from ncbatch.metrics.table import read_table
from ncbatch.models import zoo
from ncbatch.plan.changes import Consent
from ncbatch.plan.contents import Contents
from ncbatch.plan.retry import Retry
from ncbatch.plan.run import Later, Run, list_inputs, open_run
from ncbatch.plan.spec import RunSpec, Variant, check_same, find_run
from ncbatch.plan.units import Unit
from ncbatch.store import Store, StoreOptions
from ncbatch.worker.beats import BeatSink
from ncbatch.worker.options import WorkerOptions
from ncbatch.worker.unit import run_unit
from ncbatch.worker.workspace import Workspace

CHECKPOINT = zoo.load_builtin("base-0.010")
MODEL = Model(CHECKPOINT)
AMORTIZED = Amortized(lmbda=0.01)
ATTEMPTS = tuple(f"{n:08x}-{n}" for n in range(1, 9))


def make_image(width: int = 64, height: int = 64, seed: int = 0) -> np.ndarray:
    """Something smooth with a little noise; uint8[height, width, 3]."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (3, 3, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return (smooth + random.integers(-6, 7, smooth.shape)).clip(0, 255).astype(np.uint8)


def encoded_as(pixels: np.ndarray, suffix: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, suffix, **options)
    return buffer.getvalue()


def sga(steps: int = 2, **fields: Any) -> Sga:
    return Sga(lmbda=0.01, steps=steps, **fields)


def make_variant(recipe: Recipe = AMORTIZED, name: str = "v", **fields: Any) -> Variant:
    return Variant(name=name, model="base-0.010", model_digest=CHECKPOINT.digest, recipe=recipe, **fields)


@dataclass
class Workbench:
    """create_only: whether the output's store honours create-only puts."""

    corpus: Store
    output: Store
    create_only: bool

    def add(self, images: Mapping[str, bytes | np.ndarray]) -> None:
        for key, content in images.items():
            self.corpus.put(key, content if isinstance(content, bytes) else encoded_as(content))

    def spec(self, *variants: Variant, **fields: Any) -> RunSpec:
        return RunSpec(
            corpus=self.corpus.uri,
            variants=variants or (make_variant(),),
            create_only=self.create_only,
            **fields,
        )

    def open(
        self,
        spec: RunSpec,
        *,
        pixels_per_unit: int = 10**12,
        retry: Retry | None = None,
        consent: Consent | None = None,
    ) -> Run:
        """Plans a run, or goes on with it; by default with one unit per variant and generation."""
        listing = list_inputs(spec, self.corpus, StoreOptions(), self.output)
        stored = find_run(self.output)
        if stored is not None:
            check_same(stored.spec, spec, self.output.uri)
        later = Later(retry, Contents(self.corpus, self.output), consent)
        return open_run(spec, listing, self.output, lambda *_: pixels_per_unit, later, stored=stored)

    def unit(self, spec: RunSpec) -> Unit:
        (unit,) = self.open(spec).units
        return unit

    def workspace(self, spec: RunSpec, report: BeatSink | None = None, **options: Any) -> Workspace:
        """Each is a worker process of its own, so to say; it has the model, which is slow to load."""
        device = torch.device("cpu")
        workspace = Workspace(spec, self.corpus, self.output, device, WorkerOptions(**options), report)
        workspace.models.add(MODEL)
        return workspace

    def encode(self, spec: RunSpec, *, attempt: str = ATTEMPTS[0], **fields: Any) -> dict[str, Row]:
        """Does the only unit of a run; its rows by image."""
        unit = self.unit(spec)
        run_unit(self.workspace(spec, **fields), unit, attempt, {})
        return self.rows()

    def rows(self) -> dict[str, Row]:
        """The metrics table of a run of one variant, checked for one row per image."""
        rows = [Row(**row) for row in read_table(self.output).to_pylist()]
        keys = [row.image_key for row in rows]
        assert len(set(keys)) == len(keys)
        return {row.image_key: row for row in rows}

    def commit(self, unit: Unit) -> list[Row]:
        """The rows of a unit's commit as they stand there."""
        table = parquet_to_table(self.output.get(layout.unit_key(unit.id)))
        return [Row(**row) for row in table.to_pylist()]

    def bitstream(self, row: Row) -> bytes:
        """The bytes of an ok row, which must be the ones that it describes and decode to its numbers."""
        assert (row.status, row.offset) == ("ok", 0), row.error
        assert row.bitstream_key is not None and row.length is not None and row.bpp is not None
        data = self.output.get(row.bitstream_key)
        assert (row.length, row.sha256) == (len(data), hashlib.sha256(data).hexdigest())
        decoded = decode(MODEL, data)
        assert decoded.shape[:2] == (row.height, row.width)
        assert row.bpp == len(data) * 8 / (decoded.shape[0] * decoded.shape[1])
        return data

    def mse(self, row: Row, pixels: np.ndarray) -> float:
        """Between an image and what its row's bytes decode to."""
        return float(np.square(decode(MODEL, self.bitstream(row)).astype(float) - pixels).mean())

    def keys(self, prefix: str) -> list[str]:
        return [info.key for info in self.output.list(prefix)]


def assert_one_row_each(rows: Sequence[Row], unit: Unit) -> None:
    assert sorted(row.image_key for row in rows) == sorted(image.key for image in unit.images)
