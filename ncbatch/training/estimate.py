"""How long a training takes on this machine, from a few steps."""

from __future__ import annotations

import time

import numpy as np
import torch

from ncbatch.training.images import TrainingImages
from ncbatch.training.settings import TrainingSettings
from ncbatch.training.trainer import Trainer

_ENOUGH_SECONDS = 3.0
_MOST_STEPS = 20


def seconds_per_step(settings: TrainingSettings, threads: int) -> float:
    """How long a training step takes on this machine, in seconds; a few steps are taken on noise.

    Args:
        settings: of the training.
        threads: for one worker.
    """
    torch.set_num_threads(threads)
    side = settings.crop
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    count = _MOST_STEPS + 1
    trainer = Trainer(settings.model_copy(update={"steps": count}), TrainingImages([noise]), device)
    steps = trainer.run()
    next(steps)  # the first one pays for libraries and memory
    started, done, taken = time.monotonic(), 0, 0.0
    for _ in steps:
        done, taken = done + 1, time.monotonic() - started
        if taken > _ENOUGH_SECONDS:
            break
    steps.close()  # type: ignore[attr-defined]
    return taken / done
