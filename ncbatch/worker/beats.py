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


BeatSink = Callable[[Beat], bool | None]
"""Takes a beat away at once, wherever it goes. Whether the worker has been asked to give its work back."""


class GiveBack(Exception):  # noqa: N818
    """The worker is to give its unit back, whose state is saved: others go on from there."""


class Board:
    """Where workers leave their beats and the driver reads them; a process of its own in a cluster.

    Its clock is the only one by which silence is measured: so a driver that stands still for a while, or a
    board that has to be started again, makes no worker look silent.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._beats: dict[str, Beat] = {}
        self._heard_at: dict[str, float] = {}
        self._to_give_back: frozenset[str] = frozenset()

    def report(self, beat: Beat) -> bool:
        """Takes a worker's beat; one that is equal to the last is no sign of life.

        Returns:
            whether the worker is to give its work back.
        """
        if self._beats.get(beat.attempt) != beat:
            self._heard_at[beat.attempt] = self._clock()
        self._beats[beat.attempt] = beat
        return beat.attempt in self._to_give_back

    def read(self, attempts: Collection[str], to_give_back: Collection[str] = ()) -> dict[str, Heard]:
        """What is known of each of these attempts; others are forgotten, such as those of dead workers.

        Args:
            to_give_back: the attempts whose workers are to give their work back.
        """
        now, self._to_give_back = self._clock(), frozenset(to_give_back)
        self._beats = {attempt: self._beats[attempt] for attempt in attempts if attempt in self._beats}
        self._heard_at = {attempt: self._heard_at.get(attempt, now) for attempt in attempts}
        return {attempt: Heard(self._beats.get(attempt), now - at) for attempt, at in self._heard_at.items()}
