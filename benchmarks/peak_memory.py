"""Peak memory of encoding one large image in a worker's process.

    python -m benchmarks.peak_memory [--megapixels 24] [--steps 3]

A few steps suffice: every step allocates the same.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ncbatch.codec.allocator import keep_freed_memory
from ncbatch.codec.encode import encode
from ncbatch.codec.methods import Amortized, Sga
from ncbatch.codec.model.hyperprior import Model
from ncbatch.models import zoo


def peak_gib() -> float:
    """The largest resident memory of this process so far, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> int:
    """Runs the measurement that the command line asks for."""
    parser = argparse.ArgumentParser(description="Peak memory of encoding one large image.")
    parser.add_argument("--megapixels", type=float, default=24.0)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()  # as workers do
    import skimage

    # A real photograph, repeated: what it shows does not matter to memory, that it compresses as one does.
    source = np.asarray(Image.open(Path(skimage.__file__).parent / "data" / "astronaut.png").convert("RGB"))
    height = round((args.megapixels * 1e6 / 1.5) ** 0.5)
    width = round(height * 1.5)
    pixels = np.tile(source, (height // 512 + 1, width // 512 + 1, 1))[:height, :width].copy()
    model = Model(zoo.load_builtin("base-0.010"))
    print(f"{width} x {height} pixels; before: {peak_gib():.2f} GiB")
    started = time.monotonic()
    encode(model, [pixels], Amortized(lmbda=0.01))
    print(f"amortized: peak {peak_gib():.2f} GiB, {time.monotonic() - started:.1f} s")
    started = time.monotonic()
    recipe = Sga(lmbda=0.01, steps=args.steps)
    saved = []
    encode(model, [pixels], recipe, on_pause=lambda refinement: saved.append(refinement.step))
    print(f"sga, {args.steps} steps: peak {peak_gib():.2f} GiB, {time.monotonic() - started:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
