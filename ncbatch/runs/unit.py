"""Doing a unit: fetch, encode, verify, publish, commit.

Everything is written before the commit and nothing refers to it until then; the commit is one create-only
put. So a unit may be done any number of times, by any number of workers at once.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from ncbatch import layout
from ncbatch.codec.codecs import ClassicalCoder, Coder, LearnedCoder, PackCoder
from ncbatch.codec.model.hyperprior import Model
from ncbatch.codec.recipe import ClassicalRecipe
from ncbatch.metrics.schema import Row, parquet_to_table, rows_to_parquet
from ncbatch.models.loading import kept_model
from ncbatch.runs.attempt import Attempt
from ncbatch.runs.beats import Report, UnitProgress
from ncbatch.runs.pack_attempt import PackAttempt
from ncbatch.runs.plan import Unit
from ncbatch.runs.results import UnitResult
from ncbatch.runs.spec import RunSpec, Variant
from ncbatch.runs.wip import WorkInProgress
from ncbatch.store import Store

log = logging.getLogger(__name__)


@dataclass
class Workspace:
    """What one process needs to do units of a run.

    batch_size: pictures of one padded shape to refine together; halved for good when memory runs out.
    wip_seconds: between two saves of a refinement's state.
    trace_every: steps between two looks at a refinement, for the side table; 0: none.
    report: where to say how much of a unit is done.
    """

    spec: RunSpec
    corpus: Store
    output: Store
    device: torch.device
    batch_size: int = 1
    wip_seconds: float = 60.0
    trace_every: int = 0
    report: Report | None = None
    _models: dict[str, Model] = field(default_factory=dict)

    def coder(self, variant: Variant) -> Coder | PackCoder:
        """What the variant's recipe does, on the device; the last model used is kept."""
        recipe = variant.recipe
        if isinstance(recipe, ClassicalRecipe):
            return ClassicalCoder(recipe)
        digest = variant.model_digest
        assert digest is not None
        if digest not in self._models:
            self._models = {digest: Model(kept_model(self.output, digest), self.device)}
        model = self._models[digest]
        return PackCoder(model, recipe) if recipe.uses_bits_back else LearnedCoder(model, recipe)

    def wip(self, unit: Unit) -> WorkInProgress:
        return WorkInProgress(self.output, unit, self.spec.variant(unit.variant), self.wip_seconds)

    def progress(self, unit: Unit, attempt: str) -> UnitProgress:
        return UnitProgress(unit, attempt, self.spec.variant(unit.variant).recipe, self.report)

    def attempt(self, unit: Unit, attempt: str) -> Attempt | PackAttempt:
        variant = self.spec.variant(unit.variant)
        coder = self.coder(variant)
        if isinstance(coder, PackCoder):
            return PackAttempt(self, coder, variant, unit, attempt)
        return Attempt(self, coder, variant, unit, attempt)


def run_unit(workspace: Workspace, unit: Unit, attempt: str, poisoned: Mapping[str, str]) -> UnitResult:
    """Does a unit and commits it, unless a commit stands already.

    Args:
        attempt: names everything written before the commit.
        poisoned: images that get a failed row without being touched, by key, and the error class.

    Raises:
        StoreError: the store refused or could not be reached; do the unit again later.
    """
    key, output = layout.unit_key(unit.id), workspace.output
    rows: list[Row] | None = None
    if output.head(key) is None:
        work = workspace.attempt(unit, attempt)
        rows = list[Row]()
        for row in work.rows(unit.images, poisoned):
            rows.append(row)
            work.progress.done(row.image_key)
        work.tracer.write()
        if not output.put_if_absent(key, rows_to_parquet(rows)):
            rows = None
    workspace.wip(unit).discard()
    if rows is not None:
        return UnitResult.of(rows)
    log.info("unit %s is committed already", unit.id)
    keys = {image.key for image in unit.images}  # it may hold more, which has been planned again since
    standing = (Row(**row) for row in parquet_to_table(output.get(key)).to_pylist())
    return UnitResult.of(row for row in standing if row.image_key in keys)


def probe_image(workspace: Workspace, unit: Unit, attempt: str, image_key: str) -> None:
    """Does one image of a unit as `run_unit` would, and commits nothing; `run_unit` goes on from there."""
    for image in unit.images:
        if image.key == image_key:
            workspace.attempt(unit, attempt).probe(image)
