"""A training step against its convolutions alone, as the processor's seconds, in turn: the rest is overhead.

    python -m benchmarks.training_speed [--optimizer muon] [--n 64] [--m 192] [--crop 128] [--batch-size 8]

Every convolution of a step, forwards and backwards, is taken down with its tensors and done again by itself.
The last line is a JSON object; `share` is the convolutions' part of a step.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ncbatch.codec.allocator import keep_freed_memory
from ncbatch.training.images import TrainingImages
from ncbatch.training.settings import TrainingSettings
from ncbatch.training.trainer import StepReport, Trainer

_CONVOLUTIONS = (torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default)

Call = Callable[[], Any]


class _Recorder(TorchDispatchMode):
    """Takes down the convolutions that are called within it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _CONVOLUTIONS:
            kept = [a.detach().clone() if isinstance(a, torch.Tensor) else a for a in args]
            self.calls.append(lambda: func(*kept, **(kwargs or {})))
        return func(*args, **(kwargs or {}))


def _seconds(work: Call) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def recorded(steps: Iterator[StepReport]) -> list[Call]:
    """The convolutions of the next step."""
    with _Recorder() as recorder:
        next(steps)
    return recorder.calls


def main() -> None:
    """Measures what the command line asks for."""
    parser = argparse.ArgumentParser(description="a training step against its convolutions")
    defaults = TrainingSettings(lmbda=0.02, m=192)
    for name in ("n", "m", "crop", "batch_size"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(defaults, name))
    parser.add_argument("--optimizer", default="muon")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    args = vars(parser.parse_args())
    rounds = args.pop("rounds")
    torch.set_num_threads(args.pop("threads"))
    keep_freed_memory()
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    settings = TrainingSettings(lmbda=0.02, steps=1_000_000, **args)
    steps = Trainer(settings, TrainingImages([noise]), torch.device("cpu")).run()
    for _ in range(3):  # the first ones pay for libraries and memory
        next(steps)
    calls = recorded(steps)
    whole, alone = [], []
    for _ in range(rounds):
        whole.append(_seconds(lambda: next(steps)))
        alone.append(_seconds(lambda: [call() for call in calls]))
    step, convolutions = float(np.median(whole)), float(np.median(alone))
    print(f"{len(calls)} convolutions: {convolutions * 1000:.0f} ms of a step of {step * 1000:.0f} ms")
    print(
        json.dumps(
            {
                "capability": torch.backends.cpu.get_cpu_capability(),
                "step_seconds": step,
                "convolutions_seconds": convolutions,
                "share": convolutions / step,
            }
        )
    )


if __name__ == "__main__":
    main()
