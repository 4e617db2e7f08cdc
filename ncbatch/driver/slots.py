"""The place of one worker in the pool."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ncbatch.driver.elastic import Needs
from ncbatch.driver.schedule import Call
from ncbatch.worker.worker import WorkerInfo


@dataclass(frozen=True)
class Measurement:
    """The call that measures how long a variant takes; image as in `Call`."""

    variant: str
    image: None = None


@dataclass
class Flight:
    """A call in flight.

    Attributes:
        call: What is being done.
        attempt: The name of this execution.
        patience: How long it may show no sign of life, in seconds.
        started: By the monotonic clock.
        killed: Whether its worker was killed because it seemed to hang.
    """

    call: Call | Measurement
    attempt: str
    patience: float
    started: float
    killed: bool = False


@dataclass
class Slot:
    """One worker: starting, idle, or with one call in flight.

    needs: what Ray reserves for it. leaving: it gets no calls any more, since its node is to be taken away.
    ask_at: when a worker that could not be reached is to be asked whether it is there.
    device_failures: in a row. retired: it gets no calls any more.
    """

    actor: Any
    needs: Needs
    ref: Any = None
    flight: Flight | None = None
    info: WorkerInfo | None = None
    ask_at: float | None = None
    device_failures: int = 0
    retired: bool = False
    leaving: bool = False

    @property
    def idle(self) -> bool:
        """Whether it waits for a call."""
        return self.ref is None and self.info is not None and not self.leaving

    @property
    def place(self) -> str:
        """Which process it is, for messages."""
        return (
            f"process {self.info.pid} on {self.info.host}" if self.info else "a process that has not started"
        )
