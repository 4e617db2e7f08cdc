"""The place of one worker in the pool."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ncbatch.driver.elastic import Needs
from ncbatch.driver.health import Place
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
    last: the unit that it did last.
    place: where it is, or where its predecessor was until it has started.
    ask_at: when a worker that could not be reached is to be asked whether it is there. doubtful: the call
        that it had, of which nothing is known until it answers.
    start_at: when its successor is to be started. failed_starts: in a row. remembered_from: when its
        predecessor ended.
    """

    actor: Any
    needs: Needs
    ref: Any = None
    flight: Flight | None = None
    info: WorkerInfo | None = None
    place: Place | None = None
    ask_at: float | None = None
    doubtful: Flight | None = None
    start_at: float | None = None
    remembered_from: float = field(default_factory=time.monotonic)
    failed_starts: int = 0
    leaving: bool = False
    last: str | None = None

    @property
    def idle(self) -> bool:
        """Whether it waits for a call."""
        return self.ref is None and self.info is not None and not self.leaving

    @property
    def name(self) -> str:
        """Which process it is, for messages."""
        return str(self.place) if self.info and self.place else "a process that has not started"

    def started(self, info: WorkerInfo) -> None:
        """The worker has answered for the first time."""
        self.info, self.failed_starts, self.last = info, 0, None
        self.place = Place(info.node or info.host, info.device, info.host, info.pid)


class Ended(NamedTuple):
    """A call that came to its end: what came of it (or LostCall), after how many seconds, and where."""

    call: Call | Measurement
    result: Any
    seconds: float
    place: Place
