"""What a worker has at hand for the units of a run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from ncbatch.codec.codecs import ClassicalCoder, Coder, LearnedCoder, PackCoder, TargetCoder
from ncbatch.codec.methods import ClassicalRecipe
from ncbatch.codec.model.hyperprior import Model
from ncbatch.codec.recipe import PackedRecipe, RefinedRecipe
from ncbatch.codec.refinement.batch import shares_tensors
from ncbatch.codec.refinement.canvas import canvas
from ncbatch.codec.targeted import Ladder
from ncbatch.models.loading import ModelSource, RunModels
from ncbatch.plan.spec import RunSpec, Variant
from ncbatch.plan.units import PlannedImage, Unit
from ncbatch.store import Store
from ncbatch.worker.batching import Batching, new_batching
from ncbatch.worker.beats import BeatSink
from ncbatch.worker.bounds import Bounds
from ncbatch.worker.opened_images import OpenedImages
from ncbatch.worker.options import WorkerOptions
from ncbatch.worker.tracer import Tracer
from ncbatch.worker.unit_progress import UnitProgress
from ncbatch.worker.waiting import Canvas, by_shape, own_shape
from ncbatch.worker.work_in_progress import WorkInProgress


def ladder_of(variant: Variant, load: Callable[[str], Model]) -> Ladder:
    """The models that a search may choose from; load: gives one by its digest."""
    digests = tuple(variant.models)
    lmbdas = tuple(model.lmbda for model in variant.ladder) or (load(digests[0]).info.lmbda,)
    return Ladder(lmbdas, digests, load)


@dataclass
class Workspace:
    """What one process needs to do units of a run.

    Attributes:
        spec: of the run.
        corpus: where images are read.
        output: the run's folder.
        device: where models compute.
        options: how units are done.
        report: where to say how much of a unit is done.
        source: where models are nearer than in the run's folder.
        leaving: set when the process is to end soon, so that it gives back what it is at.
        bounds: what is done beside the main thread.
        images: opens them.
    """

    spec: RunSpec
    corpus: Store
    output: Store
    device: torch.device
    options: WorkerOptions = field(default_factory=WorkerOptions)
    report: BeatSink | None = None
    source: ModelSource | None = None
    leaving: threading.Event = field(init=False, default_factory=threading.Event)
    bounds: Bounds = field(init=False)
    images: OpenedImages = field(init=False)
    models: RunModels = field(init=False)
    _batching: dict[str, Batching] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.bounds = Bounds.of(self.device, torch.get_num_threads())
        # With one variant each image is opened once in any case.
        self.images = OpenedImages(self.corpus, self.bounds.kept if len(self.spec.variants) > 1 else 0)
        self.models = RunModels(self.output, self.device, self.source)

    def coder(self, variant: Variant) -> Coder | PackCoder:
        """What the variant's recipe does, on the device."""
        recipe = variant.recipe
        if isinstance(recipe, ClassicalRecipe):
            return ClassicalCoder(recipe)
        if isinstance(recipe, RefinedRecipe) and recipe.target is not None:
            return TargetCoder(ladder_of(variant, self.models.get), recipe)
        assert variant.model_digest is not None
        model = self.models.get(variant.model_digest)
        return PackCoder(model, recipe) if isinstance(recipe, PackedRecipe) else LearnedCoder(model, recipe)

    def batching(self, variant: Variant) -> Batching:
        """How many of a variant's images go together: what was learned of it holds for all its units."""
        if variant.digest not in self._batching:
            size = self.options.batch_size
            self._batching[variant.digest] = new_batching(size, self.device, variant.recipe)
        return self._batching[variant.digest]

    def ordered(self, images: Sequence[PlannedImage]) -> Sequence[PlannedImage]:
        """The order in which images are fetched: by shape on a GPU, which refines several at once."""
        return by_shape(images, self.canvas) if shares_tensors(self.device) else images

    @property
    def canvas(self) -> Canvas:
        """Of padded shapes: images that share it are refined together. On a GPU those of several sizes do; on
        a CPU each image has tensors of its own.
        """
        return canvas if shares_tensors(self.device) else own_shape

    def wip(self, unit: Unit) -> WorkInProgress:
        """Where the unit's states between its steps are kept."""
        return WorkInProgress(self.output, unit, self.spec.variant(unit.variant), self.options.wip_seconds)

    def tracer(self, unit: Unit) -> Tracer:
        """Looks at the unit's refinements."""
        return Tracer(self.output, unit, self.options.trace_every)

    def progress(self, unit: Unit, attempt: str) -> UnitProgress:
        """Counts how much of a unit is done, and reports it."""
        recipe = self.spec.variant(unit.variant).recipe
        return UnitProgress(unit, attempt, recipe, self.report, self.leaving)
