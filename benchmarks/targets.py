"""How near encodings come to targets, at which cost, and whether their lmbda given directly does better.

    python -m benchmarks.targets PHOTOGRAPH... [--size 256 384] [--preset fast]

Of each photograph a crop is encoded with some targets: rates and qualities. Then it is encoded with the model
and the lmbda that were found. Printed are the error, steps and CPU seconds as a share of the direct
encoding's, and by how much the R-D loss (bpp + lmbda * MSE, on real bytes) is higher than its.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ncbatch.codec.allocator import keep_freed_memory
from ncbatch.codec.encode import encode
from ncbatch.codec.methods import Sga
from ncbatch.codec.model.hyperprior import Model
from ncbatch.codec.target import TARGET_FIELDS
from ncbatch.codec.targeted import Ladder, encode_to_target
from ncbatch.models import catalog, zoo

TARGETS = (
    ("target_bpp", 0.3), ("target_bpp", 0.6), ("target_bpp", 1.0),
    ("target_psnr", 28.0), ("target_psnr", 31.0), ("target_ssim", 0.97),
)  # fmt: skip


def ladder() -> tuple[Ladder, dict[str, Model]]:
    """The built-in models, loaded."""
    names = sorted(catalog.builtin_models("base"), key=catalog.builtin_models("base").__getitem__)
    models = [Model(zoo.load_builtin(name)) for name in names]
    by_digest = {model.digest: model for model in models}
    lmbdas = tuple(model.info.lmbda for model in models)
    return Ladder(lmbdas, tuple(by_digest), by_digest.__getitem__), by_digest


def line(
    models: Ladder, pixels: np.ndarray, field: str, value: float, preset: str
) -> tuple[str, list[float]]:
    """One row of the table, and its error, shares of steps and time, and R-D difference."""
    recipe = Sga.model_validate({"lmbda": 0.01, **Sga.preset(preset), field: value})
    started = time.process_time()
    found = encode_to_target(models, pixels, recipe)
    seconds, started = time.process_time() - started, time.process_time()
    sought = found.sought
    assert sought is not None and sought.lmbda is not None and found.steps_taken is not None
    plain = recipe.model_copy(update={**dict.fromkeys(TARGET_FIELDS), "lmbda": sought.lmbda})
    direct = encode(models.load(sought.model_digest), [pixels], plain)[0]
    direct_seconds = time.process_time() - started
    assert direct.steps_taken is not None
    error = sought.target.level_of_value(sought.came) - sought.target.level
    shares = found.steps_taken / direct.steps_taken, seconds / direct_seconds
    loss = found.outcome.loss / direct.outcome.loss - 1
    unit = f"{error:+.2%}" if sought.target.is_rate else f"{error:+.3f} dB"
    cells = (
        f"{value:g}",
        f"{sought.came:.4g}",
        unit,
        str(sought.tries),
        f"{shares[0]:.2f}",
        f"{shares[1]:.2f}",
    )
    return " | ".join((field.removeprefix("target_"), *cells, f"{loss:+.2%}")), [error, *shares, loss]


def main() -> None:
    """Prints the table that docs/targets.md has."""
    parser = argparse.ArgumentParser(description="targets met, and what that costs")
    parser.add_argument("photographs", type=Path, nargs="+")
    parser.add_argument("--size", type=int, nargs=2, default=(256, 384), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--preset", default="fast")
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    models, _ = ladder()
    height, width = args.size
    print("| photograph | target | asked | came | error | tries | steps | CPU time | R-D loss |")
    print("|---|---|---|---|---|---|---|---|---|")
    found = []
    for path in args.photographs:
        pixels = np.asarray(Image.open(path).convert("RGB"))[:height, :width]
        encode(models.model(3), [pixels[:64, :64].copy()], Sga(lmbda=0.01, steps=2))  # loads what is lazy
        for field, value in TARGETS:
            text, numbers = line(models, pixels, field, value, args.preset)
            found.append(numbers[1:])
            print(f"| {path.stem} | {text} |", flush=True)
    steps, seconds, loss = np.mean(found, axis=0)
    print(f"| mean | | | | | | {steps:.2f} | {seconds:.2f} | {loss:+.2%} |")


if __name__ == "__main__":
    main()
