"""How much of the R-D loss recipes save, against another recipe's saving: for the search of presets.

    python -m benchmarks.presets PHOTOGRAPHS SPEC.yaml --half search
    python -m benchmarks.presets PHOTOGRAPHS SPEC.yaml --half report --reference paper
    python -m benchmarks.presets PHOTOGRAPHS benchmarks/stopping.yaml --half report --reference whole

Every variant of the spec file refines the same crops of one half of the photographs (see `benchmarks.crops`).
Saved: 1 - loss / amortized loss, by information content and the decoder's synthesis, which the real bytes
follow within a fraction of a percent.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.crops import HALVES, crops, half_of
from ncbatch.codec.allocator import keep_freed_memory
from ncbatch.codec.measure import measure
from ncbatch.codec.methods import Refined
from ncbatch.codec.model.hyperprior import Model, to_tensor
from ncbatch.codec.refinement.batch import Refinement
from ncbatch.codec.refinement.loop import Target
from ncbatch.codec.refinement.noise import ImageNoise
from ncbatch.models.loading import load_model
from ncbatch.plan.request import make_variant, read_spec_file
from ncbatch.store import StoreOptions

OPTIONS = StoreOptions()


def refined(model: Model, pixels: np.ndarray, recipe: Refined) -> tuple[float, float, int]:
    """R-D loss of the amortized latents and of the refined ones, and the steps that were taken."""
    target = Target(pixels.shape[0], pixels.shape[1], ImageNoise(recipe.seed, pixels.tobytes()))
    work = Refinement(model, to_tensor(pixels, model.device), [target], recipe)
    work.advance(recipe.steps)
    before, after = (measure(model, pixels, found, recipe.lmbda) for found in (work.amortized, work.best))
    return before.expected.rd_loss, after.expected.rd_loss, work.steps_taken[0]


@dataclass(frozen=True)
class Result:
    """What a variant made of each crop: R-D losses before and after, and steps taken."""

    before: np.ndarray
    after: np.ndarray
    steps: np.ndarray

    @property
    def saving(self) -> float:
        """Mean share of the amortized loss."""
        return float(np.mean(1 - self.after / self.before))

    def against(self, other: Result) -> str:
        """In words."""
        loss, steps = self.after / other.after - 1, self.steps.sum() / other.steps.sum()
        return (
            f", {self.saving / other.saving:.1%} of the reference's; loss {loss.mean():+.3%} (at most "
            f"{loss.max():+.3%}) in {steps:.1%} of its steps"
        )


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
    results: dict[str, Result] = {}
    for request in read_spec_file(args.spec, OPTIONS):
        variant = make_variant(request, OPTIONS)
        assert variant.model is not None and isinstance(variant.recipe, Refined)
        if variant.model not in models:
            models[variant.model] = Model(load_model(variant.model, OPTIONS))
        started = time.monotonic()
        found = np.array([refined(models[variant.model], pixels, variant.recipe) for pixels in images])
        seconds = (time.monotonic() - started) / len(images)
        result = results[variant.name] = Result(*found.T)
        against = result.against(results[args.reference]) if args.reference in results else ""
        print(f"{variant.name}: {result.saving:.3%} saved{against}; {seconds:.1f} s a crop", flush=True)


if __name__ == "__main__":
    main()
