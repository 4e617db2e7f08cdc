"""How long a recipe takes and how much it writes on this hardware, from a few steps."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from ncbatch.codec.codecs import ClassicalCoder, Coder, LearnedCoder, PackCoder, TargetCoder
from ncbatch.codec.encode import padded_shape
from ncbatch.codec.errors import DivergedError
from ncbatch.codec.methods import Amortized
from ncbatch.codec.model.hyperprior import Model
from ncbatch.codec.recipe import BaseRecipe, LearnedRecipe, PackedRecipe, RefinedRecipe
from ncbatch.codec.refinement.canvas import canvas
from ncbatch.images.checks import ImageError
from ncbatch.images.distortion import SMALLEST_SIDE
from ncbatch.images.pixels import Pixels
from ncbatch.images.read import read_image
from ncbatch.models.loading import load_model
from ncbatch.plan.generations import PACK_IMAGES, Wanted
from ncbatch.plan.image_table import total_pixels
from ncbatch.plan.inputs import DamagedShardError, Inputs
from ncbatch.plan.sizing import pixels_per_unit
from ncbatch.plan.spec import RunSpec
from ncbatch.plan.units import PlannedImage, Unit, make_units
from ncbatch.store import Store, StoreOptions
from ncbatch.worker.batches import memory_failure
from ncbatch.worker.batching import Batching, new_batching
from ncbatch.worker.bounds import Bounds
from ncbatch.worker.workspace import ladder_of

_SIDE = 512
_SMALL_SIDE = 64
_PIECES = 3
"""Measurements of which the median counts."""
_LEAST_STEPS, _MOST_STEPS = 8, 8192
_GROWING_STEPS = 100
"""In a batch whose size is tried: as many as make the rest of it small on a fast device."""
_SAMPLES = 3
TRIES = 1.3
"""Times as long as an encoding with one lmbda takes one with a target, about (see docs/targets.md)."""


@dataclass(frozen=True)
class Costs:
    """Seconds per pixel. base: with each of what a recipe repeats done once; repeated: of one time more."""

    base: float
    repeated: dict[str, float]


def seconds_per_pixel(coder: Coder | PackCoder, batching: Batching, bounds: Bounds) -> float:
    """Seconds that encoding takes per pixel; arguments as of `costs_per_pixel`."""
    if isinstance(coder, TargetCoder):
        return TRIES * seconds_per_pixel(coder.plain(), batching, bounds)
    costs = costs_per_pixel(coder, batching, bounds)
    times = {n: getattr(coder.recipe, n) * coder.recipe.repeated[n] for n in costs.repeated}
    return costs.base + sum(seconds * times[name] for name, seconds in costs.repeated.items())


def costs_per_pixel(coder: Coder | PackCoder, batching: Batching, bounds: Bounds) -> Costs:
    """What encoding a test image of 512 x 512 pixels takes, taken apart.

    Args:
        coder: of the variant.
        batching: how many images go together; what it has yet to learn of this size it learns here.
        bounds: of the worker: how many threads finish images beside each other.
    """
    images = [np.random.default_rng(0).integers(0, 256, (_SIDE, _SIDE, 3), dtype=np.uint8)]
    images *= _settled_size(coder, batching, images[0])
    pixels = len(images) * _SIDE**2

    def timed(**repeated: int) -> float:
        return _seconds(_with(coder, repeated), images, bounds.finishers)

    def timed_with(name: str, times: int) -> float:
        return timed(**(once | {name: times}))

    counts = [name for name in coder.recipe.repeated if getattr(coder.recipe, name)]
    once = dict.fromkeys(counts, 1)
    timed(**once)  # the first time pays for libraries and memory
    bases = [timed(**once) for _ in range(_PIECES)]
    base = statistics.median(bases)
    repeated = {name: _one_more(partial(timed_with, name), base) for name in counts}
    return Costs(base / pixels, {name: seconds / pixels for name, seconds in repeated.items()})


def _one_more(timed: Callable[[int], float], base: float) -> float:
    """Seconds that one time more takes, of what takes `base` once.

    So many are taken that they last half as long as all the rest; on a fast device these are hundreds. Then
    what disturbs the rest says little, and the median of several measurements leaves it out.
    """
    more = _LEAST_STEPS
    while (longer := timed(1 + more)) - base < base / 2 and more < _MOST_STEPS:
        more *= 4
    found = statistics.median([longer, *(timed(1 + more) for _ in range(_PIECES - 1))])
    # Where even that is lost in the noise, what all took together is more than these steps did.
    return (found - base if found > base else found) / more


def _with(coder: Coder | PackCoder, counts: dict[str, int]) -> Coder | PackCoder:
    """The coder with other counts of steps, all of which are taken."""
    whole = {"patience": 0} if hasattr(coder.recipe, "patience") else {}
    recipe: Any = coder.recipe.model_copy(update={**counts, **whole})
    return replace(coder, recipe=recipe)


def _seconds(coder: Coder | PackCoder, images: list[Pixels], finishers: int) -> float:
    """Seconds that a batch takes: on the device, and its share of the threads that finish images."""
    started = time.monotonic()
    if isinstance(coder, PackCoder):
        coder.encode(images)
        return time.monotonic() - started
    found = [result for _, result in coder.find(images)]
    if isinstance(coder, LearnedCoder) and coder.model.device.type == "cuda":
        torch.cuda.synchronize(coder.model.device)
    refined = time.monotonic()
    if isinstance(found[0], DivergedError):
        raise found[0]
    found[0]()  # all of them are alike
    return refined - started + (time.monotonic() - refined) * len(images) / finishers


def _settled_size(coder: Coder | PackCoder, batching: Batching, image: Pixels) -> int:
    """How many images of this size the worker will refine together, found as it would find it."""
    shape = padded_shape(image)
    if isinstance(coder, LearnedCoder):  # as its batches are counted on a GPU; packs have one shape in each
        shape = canvas(shape)
    counts = {n: min(getattr(coder.recipe, n), _GROWING_STEPS) for n in coder.recipe.repeated}
    short = _with(coder, counts)
    while not batching.settled(shape):
        size = batching.size(shape)
        started = time.monotonic()
        try:
            for _ in short.find([image] * size):
                pass
        except (MemoryError, RuntimeError) as error:
            memory_failure(error, _device(coder))
            if size == 1:
                raise
            batching.too_large(shape, size)
        else:
            batching.took(shape, size, time.monotonic() - started)
    return batching.size(shape)


def _device(coder: Coder | PackCoder) -> torch.device:
    return coder.model.device if isinstance(coder, LearnedCoder | PackCoder) else torch.device("cpu")


def try_out(coder: Coder | PackCoder) -> None:
    """Encodes a very small image with one repetition of each kind, to see whether that works."""
    if isinstance(coder, TargetCoder):
        coder = coder.plain()
    recipe = coder.recipe
    weighs_ms_ssim = isinstance(recipe, LearnedRecipe) and recipe.ms_ssim_weight > 0
    side = SMALLEST_SIDE if weighs_ms_ssim else _SMALL_SIDE
    counts = {name: 1 for name in recipe.repeated if getattr(recipe, name)}
    _seconds(_with(coder, counts), [np.zeros((side, side, 3), dtype=np.uint8)], finishers=1)


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
    loaded: dict[str, Model] = {}

    def load(names: Mapping[str, str], digest: str) -> Model:
        if digest not in loaded:
            loaded[digest] = Model(load_model(names[digest], options), device)
        return loaded[digest]

    for variant in spec.variants:
        if not (images := wanted.get(variant.name)):
            continue
        pixels = total_pixels(images)
        coder: Coder | PackCoder
        recipe, packs = variant.recipe, variant.recipe.uses_bits_back
        if isinstance(recipe, RefinedRecipe) and recipe.target is not None:
            coder = TargetCoder(ladder_of(variant, partial(load, variant.models)), recipe)
            encoded = [coder.amortized(sample) for sample in samples]
        elif isinstance(recipe, LearnedRecipe):
            (model,) = (load(variant.models, digest) for digest in variant.models)
            if isinstance(recipe, PackedRecipe):
                coder = PackCoder(model, recipe)
            else:
                coder = LearnedCoder(model, recipe)
            # By the MSE: samples may be too small for MS-SSIM.
            unrefined = LearnedCoder(model, Amortized(lmbda=recipe.lmbda))
            encoded = [unrefined.amortized(sample) for sample in samples]
        else:
            coder = ClassicalCoder(recipe)
            encoded = coder.encode(samples)
        coded = sum(len(result.outcome.data) for result in encoded)
        batching = new_batching(None, device, recipe)
        seconds = seconds_per_pixel(coder, batching, Bounds.of(device, torch.get_num_threads()))
        per_unit = pixels_per_unit(pixels, seconds, unit_seconds, workers, packs=packs)
        at_least = PACK_IMAGES if packs else 1
        units = list(make_units(images, variant.name, variant.digest, 0, per_unit, at_least))
        size = _asked_size(recipe, images) or (coded / area * pixels if area else 0.0)
        found.append(Estimate(variant.name, units, seconds, size))
    return found


def _asked_size(recipe: BaseRecipe, images: Sequence[PlannedImage]) -> float | None:
    """Bytes that a run's files are to have together, where that is what is asked for."""
    target = recipe.target if isinstance(recipe, RefinedRecipe) else None
    if target is None or not target.is_rate:
        return None
    return target.value * (len(images) if target.measure == "bytes" else total_pixels(images) / 8)


def _samples(images: Sequence[PlannedImage], corpus: Store) -> list[Pixels]:
    """Crops of a few readable images, spread over the corpus."""
    found, inputs = list[Pixels](), Inputs(corpus)
    for image in images[:: max(len(images) // (2 * _SAMPLES), 1)]:
        if len(found) == _SAMPLES:
            break
        try:
            found.append(read_image(inputs.read(image).data, alpha="white")[:_SIDE, :_SIDE])
        except (ImageError, DamagedShardError):
            continue  # the run itself will say so in its row
    return found
