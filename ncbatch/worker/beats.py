"""What a worker reports of its unit: how much of it is done. A beat is a sign of life, too."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class Beat:
    """One report.

    Attributes:
        attempt: the execution of a unit that it is of.
        fraction: of the unit's work that is done, 0 to 1.
        step: of the refinement under way.
        begun_at: the fraction that an earlier attempt had done.
        signs: of life that were given beside steps and finished images; counts them.
    """

    attempt: str
    fraction: float
    step: int = 0
    begun_at: float = 0.0
    signs: int = 0


@dataclass(frozen=True)
class Heard:
    """What the board knows of an attempt.

    Attributes:
        beat: the last one; None: none has arrived.
        silent: seconds since something new was heard, or since the board was first asked about the attempt.
    """

    beat: Beat | None
    silent: float


BeatSink = Callable[[Beat], None]
"""Takes a beat away at once, wherever it goes."""


class Board:
    """Where workers leave their beats and the driver reads them; a process of its own in a cluster.

    Its clock is the only one by which silence is measured: so a driver that stands still for a while, or a
    board that has to be started again, makes no worker look silent.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._beats: dict[str, Beat] = {}
        self._heard_at: dict[str, float] = {}

    def report(self, beat: Beat) -> None:
        """Takes a worker's beat; one that is equal to the last is no sign of life."""
        if self._beats.get(beat.attempt) != beat:
            self._heard_at[beat.attempt] = self._clock()
        self._beats[beat.attempt] = beat

    def read(self, attempts: Collection[str]) -> dict[str, Heard]:
        """What is known of each of these attempts; others are forgotten, such as those of dead workers."""
        now = self._clock()
        self._beats = {attempt: self._beats[attempt] for attempt in attempts if attempt in self._beats}
        self._heard_at = {attempt: self._heard_at.get(attempt, now) for attempt in attempts}
        return {attempt: Heard(self._beats.get(attempt), now - at) for attempt, at in self._heard_at.items()}
