"""Whole images encoded here and by another checkout of ncbatch: seconds, R-D loss, steps that were taken.

    git worktree add /tmp/before HEAD~1
    python -m benchmarks.whole_image /tmp/before PHOTOGRAPH... [--preset fast]

Both encode the same image at the same time, each in a process of its own with one thread, so that whatever
else the machine does falls on both. The last line is one JSON object of the means.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

_CHILD = """
import json, sys, time
import numpy as np, torch
from PIL import Image
from ncbatch.codec.allocator import keep_freed_memory
from ncbatch.codec.encode import encode
from ncbatch.codec.methods import Sga
from ncbatch.codec.model.hyperprior import Model
from ncbatch.models import zoo

torch.set_num_threads(1)
keep_freed_memory()
name, path, preset = sys.argv[1:]
model = Model(zoo.load_builtin(name))
recipe = Sga(lmbda=model.info.lmbda, **Sga.preset(preset))
pixels = np.asarray(Image.open(path).convert("RGB"))
encode(model, [pixels[:64, :64].copy()], Sga(lmbda=model.info.lmbda, steps=2))  # loads what is loaded lazily
began = time.monotonic()
(encoded,) = encode(model, [pixels], recipe)
seconds = time.monotonic() - began
steps = getattr(encoded, "steps_taken", None) or recipe.steps
print(json.dumps({"seconds": seconds, "rd_loss": encoded.outcome.rd_loss, "steps": steps}))
"""


def _begun(checkout: Path, args: argparse.Namespace, photograph: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _CHILD, args.model, str(Path(photograph).resolve()), args.preset]
    env = os.environ | {"PYTHONPATH": str(checkout.resolve()), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=checkout, env=env, stdout=subprocess.PIPE, text=True)


def _ended(process: subprocess.Popen[str]) -> dict[str, Any]:
    told, _ = process.communicate()
    if process.returncode:
        sys.exit(f"a process ended with {process.returncode}; its messages are above")
    found: dict[str, Any] = json.loads(told)
    return found


def main() -> None:
    """Encodes and compares what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("before", type=Path, help="folder of the other checkout")
    parser.add_argument("photographs", nargs="+", metavar="PHOTOGRAPH")
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--model", default="base-0.010")
    args = parser.parse_args()
    ratios: dict[str, list[float]] = {"seconds": [], "rd_loss": [], "steps": []}
    for photograph in args.photographs:
        running = [_begun(checkout, args, photograph) for checkout in (args.before, Path.cwd())]
        before, now = (_ended(process) for process in running)
        print(Path(photograph).name, "before", before, "now", now, flush=True)
        for name, values in ratios.items():
            values.append(now[name] / before[name])
    print(json.dumps({f"{name}_ratio": statistics.mean(values) for name, values in ratios.items()}))


if __name__ == "__main__":
    main()
