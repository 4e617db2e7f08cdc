"""How much of the R-D loss recipes save, against another recipe's saving: for the search of presets.

    python -m benchmarks.presets PHOTOGRAPHS SPEC.yaml --half search
    python -m benchmarks.presets PHOTOGRAPHS SPEC.yaml --half report --reference paper

Every variant of the spec file refines the same crops of one half of the photographs (see `benchmarks.crops`).
Saved: 1 - loss / amortized loss, by the
loop's own estimate of the hard-rounded iterate, which the real bytes follow within a fraction of a percent.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.crops import HALVES, crops, half_of
from ncbatch.codec.allocator import keep_freed_memory
from ncbatch.codec.methods import Refined
from ncbatch.codec.model.hyperprior import Model, to_tensor
from ncbatch.codec.refinement.batch import Refinement
from ncbatch.codec.refinement.loop import Target
from ncbatch.codec.refinement.noise import ImageNoise
from ncbatch.models.loading import load_model
from ncbatch.plan.request import make_variant, read_spec_file
from ncbatch.store import StoreOptions

OPTIONS = StoreOptions()


def saved(model: Model, pixels: np.ndarray, recipe: Refined) -> float:
    """Share of the amortized loss."""
    target = Target(pixels.shape[0], pixels.shape[1], ImageNoise(recipe.seed, pixels.tobytes()))
    work = Refinement(model, to_tensor(pixels, model.device), [target], recipe)
    before = work.best_loss.item()
    work.advance(recipe.steps)
    return 1 - work.best_loss.item() / before


def main() -> None:
    """Runs the measurement that the command line asks for."""
    parser = argparse.ArgumentParser(description="recipes compared by what they save")
    parser.add_argument("photographs", type=Path)
    parser.add_argument("spec")
    parser.add_argument("--half", choices=HALVES, required=True)
    parser.add_argument("--reference", help="variant whose saving is 100 %%")
    parser.add_argument("--size", type=int, nargs=2, default=(256, 384), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    images = list(half_of(crops(args.photographs, *args.size), args.half).values())
    models: dict[str, Model] = {}
    means: dict[str, float] = {}
    for request in read_spec_file(args.spec, OPTIONS):
        variant = make_variant(request, OPTIONS)
        assert variant.model is not None and isinstance(variant.recipe, Refined)
        if variant.model not in models:
            models[variant.model] = Model(load_model(variant.model, OPTIONS))
        started = time.monotonic()
        savings = [saved(models[variant.model], pixels, variant.recipe) for pixels in images]
        means[variant.name] = float(np.mean(savings))
        share = f", {means[variant.name] / means[args.reference]:.1%} of {args.reference}'s" if (
            args.reference in means
        ) else ""  # fmt: skip
        seconds = (time.monotonic() - started) / len(images)
        print(f"{variant.name}: {means[variant.name]:.3%} saved{share}; {seconds:.1f} s a crop", flush=True)


if __name__ == "__main__":
    main()
