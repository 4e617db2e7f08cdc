"""The board of beats as a Ray actor: workers write without waiting, the driver reads without waiting."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ncbatch.worker.beats import Beat, Board, Heard

log = logging.getLogger(__name__)

_SECONDS = 1.0
"""Between two readings."""


class Pen:
    """Sends a worker's beats to the board. It is pickled and sent to the workers."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor
        self._answer: Any = None

    def __call__(self, beat: Beat) -> bool:
        """Sends a beat, without waiting for it to arrive; what an earlier one was answered."""
        asked = False
        if self._answer is not None:
            if not ray.wait([self._answer], timeout=0)[0]:
                self._actor.report.options(num_returns=0).remote(beat)
                return False
            try:
                asked = ray.get(self._answer)
            except RayError as error:
                log.debug("the board does not answer: %s", error)
        self._answer = self._actor.report.remote(beat)
        return asked


class BoardReader:
    """The driver's side of the board. Ray restarts a board that dies; until then the last reading counts."""

    def __init__(self) -> None:
        # On the driver's own node, where it is not lost before the driver is.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        board = ray.remote(Board).options(
            num_cpus=0, max_restarts=-1, max_task_retries=0, scheduling_strategy=here
        )
        self._actor: Any = board.remote()
        self._asked: Any = None
        self._asked_at = float("-inf")
        self._heard: dict[str, Heard] = {}

    @property
    def pen(self) -> Pen:
        """What a worker writes its beats with."""
        return Pen(self._actor)

    def read(self, attempts: Collection[str], to_give_back: Collection[str] = ()) -> dict[str, Heard]:
        """The newest that has arrived of these attempts; never waits for any."""
        if self._asked is not None and ray.wait([self._asked], timeout=0)[0]:
            try:
                self._heard = ray.get(self._asked)
            except RayError as error:
                log.debug("the board cannot be read: %s", error)
            self._asked = None
        if self._asked is None and time.monotonic() - self._asked_at >= _SECONDS:
            self._asked, self._asked_at = (
                self._actor.read.remote(list(attempts), list(to_give_back)),
                time.monotonic(),
            )
        return {attempt: self._heard[attempt] for attempt in attempts if attempt in self._heard}

    def close(self) -> None:
        """Ends the board's process."""
        ray.kill(self._actor, no_restart=True)
