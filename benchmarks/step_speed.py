"""A step of the refinement here against another checkout of ncbatch: seconds, blocks of steps in turn.

    git worktree add /tmp/before HEAD~1
    python -m benchmarks.step_speed /tmp/before [IMAGE] [--preset fast] [--threads 1]

Each checkout has a process of its own, and one waits while the other works, since absolute times on shared
machines mean nothing. Seconds are the processor's, of all threads: others on the machine then count little.
Looks at the rounded latents are included, as often as the preset has them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

_CHILD = """
import json, sys, time
import numpy as np, torch
from PIL import Image
from ncbatch.codec.allocator import keep_freed_memory
from ncbatch.codec.methods import Sga
from ncbatch.codec.model.hyperprior import Model, to_tensor
from ncbatch.codec.refinement.batch import Refinement
from ncbatch.codec.refinement.loop import Target
from ncbatch.codec.refinement.noise import ImageNoise
from ncbatch.models import zoo

given = json.loads(sys.argv[1])
torch.set_num_threads(given["threads"])
keep_freed_memory()
pixels = np.asarray(Image.open(given["image"]).convert("RGB"))
model = Model(zoo.load_builtin(given["model"]))
recipe = Sga(lmbda=0.01, **{**Sga.preset(given["preset"]), **given["fields"]})
target = Target(pixels.shape[0], pixels.shape[1], ImageNoise(0, b"benchmark"))
work = Refinement(model, to_tensor(pixels, model.device), [target], recipe)
for line in sys.stdin:
    started = time.process_time()
    work.advance(int(line))
    print(time.process_time() - started, work.best_loss.item(), flush=True)
"""


class Checkout:
    """A refinement in a process of its own, by the code of one checkout."""

    def __init__(self, folder: Path, given: dict[str, object]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CHILD, json.dumps(given)],
            cwd=folder, env=os.environ | {"PYTHONPATH": str(folder)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.seconds: list[float] = []
        self.loss = 0.0

    def advance(self, steps: int) -> None:
        """Takes some steps and notes how long one took."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        seconds, loss = self._process.stdout.readline().split()
        self.seconds.append(float(seconds) / steps)
        self.loss = float(loss)

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()


def main() -> None:
    """Runs the measurement that the command line asks for."""
    parser = argparse.ArgumentParser(description="a step here against another checkout")
    parser.add_argument("before", type=Path)
    parser.add_argument("image", nargs="?", type=Path, help="default: scikit-image's astronaut, 512x512")
    parser.add_argument("--model", default="base-0.010")
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--block", type=int, default=10, help="steps of each in turn")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    if args.image is None:
        import skimage

        args.image = Path(skimage.__file__).parent / "data" / "astronaut.png"
    given = {
        "image": str(args.image.absolute()), "model": args.model, "preset": args.preset,
        "threads": args.threads, "fields": {"steps": args.steps},
    }  # fmt: skip
    before, here = Checkout(args.before, given), Checkout(Path(__file__).parents[1], given)
    for _ in range(args.steps // args.block):
        before.advance(args.block)
        here.advance(args.block)
    for checkout in (before, here):
        checkout.close()
    # The first block pays for warming up; a neighbour on the machine disturbs both blocks of a pair alike.
    ratios = np.array(before.seconds[1:]) / np.array(here.seconds[1:])
    print(f"before: {1000 * np.median(before.seconds[1:]):.1f} ms a step, loss {before.loss:.0f}")
    print(f"here:   {1000 * np.median(here.seconds[1:]):.1f} ms a step, loss {here.loss:.0f}")
    quartiles = np.percentile(ratios, (25, 75))
    print(f"{np.median(ratios):.3f} times as fast (quartiles {quartiles[0]:.3f} to {quartiles[1]:.3f})")


if __name__ == "__main__":
    main()
