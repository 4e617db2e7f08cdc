"""How long a recipe takes and how much it writes on this hardware, from a few steps."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ncbatch.codec.codecs import ClassicalCoder, Coder, LearnedCoder, PackCoder
from ncbatch.codec.model.hyperprior import Model
from ncbatch.codec.recipe import LearnedRecipe, PackedRecipe
from ncbatch.images.checks import ImageError
from ncbatch.images.pixels import Pixels
from ncbatch.images.read import read_image
from ncbatch.models.loading import load_model
from ncbatch.plan.generations import PACK_IMAGES, Wanted
from ncbatch.plan.sizing import pixels_per_unit
from ncbatch.plan.spec import RunSpec
from ncbatch.plan.units import PlannedImage, Unit, make_units
from ncbatch.store import Store, StoreOptions

_SIDE = 512
_STEPS = 8
_SAMPLES = 3


@dataclass(frozen=True)
class Costs:
    """Seconds per pixel. base: with each of what a recipe repeats done once; repeated: of one time more."""

    base: float
    repeated: dict[str, float]


def seconds_per_pixel(coder: Coder | PackCoder) -> float:
    """Seconds that encoding takes per pixel."""
    costs = costs_per_pixel(coder)
    times = {n: getattr(coder.recipe, n) * coder.recipe.repeated[n] for n in costs.repeated}
    return costs.base + sum(seconds * times[name] for name, seconds in costs.repeated.items())


def costs_per_pixel(coder: Coder | PackCoder) -> Costs:
    """What encoding a test image of 512 x 512 pixels takes, taken apart."""
    image = np.random.default_rng(0).integers(0, 256, (_SIDE, _SIDE, 3), dtype=np.uint8)

    def timed(**repeated: int) -> float:
        recipe = coder.recipe.model_copy(update=repeated)
        started = time.monotonic()
        replace(coder, recipe=recipe).encode([image])  # type: ignore[arg-type]
        return time.monotonic() - started

    counts = [name for name in coder.recipe.repeated if getattr(coder.recipe, name)]
    once = dict.fromkeys(counts, 1)
    timed(**once)  # the first time pays for libraries and memory
    base = timed(**once)
    repeated = {n: max(timed(**(once | {n: 1 + _STEPS})) - base, 0.0) / _STEPS for n in counts}
    return Costs(base / _SIDE**2, {name: seconds / _SIDE**2 for name, seconds in repeated.items()})


@dataclass(frozen=True)
class Estimate:
    """What one variant of a run would take.

    Attributes:
        variant: by name.
        units: as the run would cut them.
        seconds_per_pixel: on hardware like this machine's.
        bytes: that it will write.
    """

    variant: str
    units: list[Unit]
    seconds_per_pixel: float
    bytes: float

    @property
    def images(self) -> int:
        """How many images there are."""
        return sum(len(unit.images) for unit in self.units)

    @property
    def device_seconds(self) -> float:
        """Seconds of one device for all images."""
        return sum(unit.pixels for unit in self.units) * self.seconds_per_pixel


def estimate(
    spec: RunSpec,
    wanted: Wanted,
    corpus: Store,
    options: StoreOptions,
    unit_seconds: float,
    workers: int,
) -> list[Estimate]:
    """What a run would take, by calibration here and the bits per pixel of a few of its images.

    Its units are cut as the run's would be by this many workers.

    Args:
        spec: of the run.
        wanted: the images to encode, by variant.
        corpus: where they are.
        options: how stores of models are reached.
        unit_seconds: how long a unit should take.
        workers: how many there are.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    samples = _samples(max(wanted.values(), key=len), corpus)
    area = sum(sample.shape[0] * sample.shape[1] for sample in samples)
    found = []
    models: dict[str, Model] = {}
    for variant in spec.variants:
        if not (images := wanted.get(variant.name)):
            continue
        pixels = sum(image.pixels for image in images)
        coder: Coder | PackCoder
        recipe, packs = variant.recipe, variant.recipe.uses_bits_back
        if isinstance(recipe, LearnedRecipe):
            assert variant.model is not None
            if variant.model not in models:
                models[variant.model] = Model(load_model(variant.model, options), device)
            model = models[variant.model]
            learned = LearnedCoder(model, recipe)
            coder = PackCoder(model, recipe) if isinstance(recipe, PackedRecipe) else learned
            encoded = [learned.amortized(sample) for sample in samples]
        else:
            coder = ClassicalCoder(recipe)
            encoded = coder.encode(samples)
        coded = sum(len(result.outcome.data) for result in encoded)
        seconds = seconds_per_pixel(coder)
        per_unit = pixels_per_unit(pixels, seconds, unit_seconds, workers, packs=packs)
        units = make_units(images, variant.name, variant.digest, 0, per_unit, PACK_IMAGES if packs else 1)
        size = coded / area * pixels if area else 0.0
        found.append(Estimate(variant.name, units, seconds, size))
    return found


def _samples(images: Sequence[PlannedImage], corpus: Store) -> list[Pixels]:
    """Crops of a few readable images, spread over the corpus."""
    found: list[Pixels] = []
    for image in images[:: max(len(images) // (2 * _SAMPLES), 1)]:
        if len(found) == _SAMPLES:
            break
        try:
            found.append(read_image(corpus.get(image.key), alpha="white")[:_SIDE, :_SIDE])
        except ImageError:
            continue  # the run itself will say so in its row
    return found
