"""How a training is carried out, as its user states it; light, so that a wrong flag is told at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ncbatch.settings import Setting, positive_float, thread_count, worker_count

_GIB = 1 << 30


@dataclass(frozen=True)
class TrainingOptions:
    """How a training is carried out; none of it changes the weights.

    memory: GiB of decoded images, of each worker.
    """

    workers: Annotated[int | None, Setting(
        "worker processes; every batch is shared among them, so results do not depend on their number", "N",
        worker_count, default="one per GPU, or one", environment=True,
    )] = None  # fmt: skip
    threads: Annotated[int | None, Setting(
        "CPU threads of each worker", "N", thread_count,
        default="all of the machine's for one worker, 1 each for several",
    )] = None  # fmt: skip
    ray_address: Annotated[str | None, Setting(
        "Ray cluster for several workers, such as 10.0.0.7:6379", "ADDRESS",
        default="RAY_ADDRESS where it is set, else a Ray of its own on this machine", environment=True,
    )] = None  # fmt: skip
    save_minutes: Annotated[float, Setting(
        "time between two saves, each with a validation; at most this is lost in a crash", "MINUTES",
        positive_float,
    )] = 5.0  # fmt: skip
    max_minutes: Annotated[float | None, Setting(
        "end after this time with a save, wherever the training is; the same command continues it", "MINUTES",
        positive_float, default="until it is done",
    )] = None  # fmt: skip
    memory: Annotated[float, Setting(
        "memory for decoded images, per worker; images that do not fit are left out", "GIB", positive_float,
    )] = 4.0  # fmt: skip

    @property
    def memory_bytes(self) -> int:
        """`memory` in bytes."""
        return int(self.memory * _GIB)
