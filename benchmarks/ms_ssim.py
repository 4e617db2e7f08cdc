"""What refinement for MS-SSIM gains in MS-SSIM and costs in PSNR, against refinement for the MSE.

    python -m benchmarks.ms_ssim PHOTOGRAPHS [--size 256 256] [--images 12] [--preset fast] [--steps 100]

Crops from the middle of the photographs are refined by each of three built-in models at its own lmbda, for
the MSE, a mixture, and MS-SSIM. The table has means over the images; BD-rates (less than 0: fewer bits for
the same quality) are between the curves of these means, by MS-SSIM in dB and by PSNR.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from benchmarks.crops import crops
from ncbatch.codec.allocator import keep_freed_memory
from ncbatch.codec.encode import encode
from ncbatch.codec.methods import Sga
from ncbatch.codec.model.hyperprior import Model
from ncbatch.codec.target import decibels
from ncbatch.models.loading import load_model
from ncbatch.plan.request import make_variant
from ncbatch.report.bd_rate import Curve, bd_rate
from ncbatch.store import StoreOptions

OPTIONS = StoreOptions()
DISTORTIONS = ("mse", "mix:0.8", "ms-ssim")
MODELS = ("base-0.005", "base-0.010", "base-0.020")


def mean_of(model: Model, images: list[np.ndarray], recipe: Sga) -> tuple[float, float, float]:
    """Mean bpp, PSNR and MS-SSIM in dB."""
    found = []
    for pixels in images:
        encoded = encode(model, [pixels], recipe)[0]
        assert encoded.ms_ssim is not None
        bpp = len(encoded.outcome.data) * 8 / (pixels.size // 3)
        found.append((bpp, encoded.outcome.psnr, decibels(encoded.ms_ssim)))
    bpp, psnr, quality = np.mean(found, axis=0).tolist()
    return bpp, psnr, quality


def main() -> None:
    """Runs the measurement that the command line asks for."""
    parser = argparse.ArgumentParser(description="refinement for MS-SSIM against refinement for the MSE")
    parser.add_argument("photographs", type=Path)
    parser.add_argument("--size", type=int, nargs=2, default=(256, 256), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--steps", type=int, help="in the place of the preset's")
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    images = list(crops(args.photographs, *args.size).values())[: args.images]
    points: dict[str, list[tuple[float, float, float]]] = {distortion: [] for distortion in DISTORTIONS}
    print("| model | distortion | bpp | PSNR dB | MS-SSIM dB |\n|---|---|---|---|---|")
    for name in MODELS:
        model = Model(load_model(name, OPTIONS))
        for distortion in DISTORTIONS:
            request = {"preset": args.preset, "model": name, "distortion": distortion, "steps": args.steps}
            said = {key: value for key, value in request.items() if value is not None}
            recipe = make_variant(said, OPTIONS).recipe
            assert isinstance(recipe, Sga)
            point = mean_of(model, images, recipe)
            points[distortion].append(point)
            print(
                f"| {name} | {distortion} | " + " | ".join(f"{value:.4f}" for value in point) + " |",
                flush=True,
            )
    rates, psnrs, qualities = zip(*(zip(*points[d], strict=True) for d in DISTORTIONS), strict=True)
    print("\n| distortion | BD-rate by MS-SSIM | BD-rate by PSNR |\n|---|---|---|")
    for index, distortion in enumerate(DISTORTIONS[1:], 1):
        cells = []
        for values in (qualities, psnrs):
            first, second = (Curve(DISTORTIONS[n], rates[n], values[n]) for n in (0, index))
            cells.append(f"{bd_rate(first, second):+.1%}")
        print(f"| {distortion} | {cells[0]} | {cells[1]} |")


if __name__ == "__main__":
    main()
