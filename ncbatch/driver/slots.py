"""The place of one worker in the pool."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from ncbatch.driver.schedule import Call
from ncbatch.worker.worker import WorkerInfo


@dataclass
class Slot:
    """One worker: starting, idle, or with one call in flight.

    device_failures: in a row. retired: it gets no calls any more.
    """

    actor: Any
    ref: Any = None
    call: Call | None = None
    attempt: str = ""
    deadline: float = float("inf")
    started: float = field(default_factory=time.monotonic)
    info: WorkerInfo | None = None
    hung: bool = False
    device_failures: int = 0
    retired: bool = False

    @property
    def idle(self) -> bool:
        """Whether it waits for a call."""
        return self.ref is None and self.info is not None

    @property
    def place(self) -> str:
        """Which process it is, for messages."""
        return (
            f"process {self.info.pid} on {self.info.host}" if self.info else "a process that has not started"
        )
