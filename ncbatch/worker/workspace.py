"""What a worker has at hand for the units of a run."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from ncbatch.codec.codecs import ClassicalCoder, Coder, LearnedCoder, PackCoder
from ncbatch.codec.methods import ClassicalRecipe
from ncbatch.codec.model.hyperprior import Model
from ncbatch.codec.recipe import PackedRecipe
from ncbatch.models.loading import kept_model
from ncbatch.plan.spec import RunSpec, Variant
from ncbatch.plan.units import Unit
from ncbatch.store import Store
from ncbatch.worker.beats import BeatSink
from ncbatch.worker.unit_progress import UnitProgress
from ncbatch.worker.work_in_progress import WorkInProgress


@dataclass
class Workspace:
    """What one process needs to do units of a run.

    batch_size: images of one padded shape to refine together; halved for good when memory runs out.
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
    report: BeatSink | None = None
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
        return PackCoder(model, recipe) if isinstance(recipe, PackedRecipe) else LearnedCoder(model, recipe)

    def wip(self, unit: Unit) -> WorkInProgress:
        return WorkInProgress(self.output, unit, self.spec.variant(unit.variant), self.wip_seconds)

    def progress(self, unit: Unit, attempt: str) -> UnitProgress:
        return UnitProgress(unit, attempt, self.spec.variant(unit.variant).recipe, self.report)
