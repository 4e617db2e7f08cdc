"""What a worker reports of its unit: how much of it is done. A beat is a sign of life, too."""

from __future__ import annotations

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
    """

    attempt: str
    fraction: float
    step: int = 0
    begun_at: float = 0.0


BeatSink = Callable[[Beat], None]
"""Takes a beat away at once, wherever it goes."""


class Board:
    """Where workers leave their beats and the driver reads them; a process of its own in a cluster."""

    def __init__(self) -> None:
        self._beats: dict[str, Beat] = {}

    def report(self, beat: Beat) -> None:
        """Takes a worker's beat."""
        self._beats[beat.attempt] = beat

    def read(self, attempts: Collection[str]) -> dict[str, Beat]:
        """The last beat of each of these attempts; others are forgotten, such as those of dead workers."""
        self._beats = {attempt: self._beats[attempt] for attempt in attempts if attempt in self._beats}
        return dict(self._beats)
