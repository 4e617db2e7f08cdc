"""How much of a run is done, and how long the rest takes. Pure: told what happens, and when.

Work is counted in seconds as the calibration expects them. What the workers do is measured against that from
their first steps on, so the forecast goes over from the calibration to what is observed.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping

from ncbatch.worker.beats import Beat

_TRUST = 10.0
"""Seconds of each worker's time that the calibration is worth."""
_SILENCE = 60.0
"""Seconds without a beat after which a worker is not believed to go on."""
_EXACT_UNITS = 2000
"""Up to as many units left, they are dealt out one by one to find when the last one ends."""


class Forecast:
    """Of one session.

    Args:
        work: expected seconds of every unit that is not committed yet.
        done: expected seconds of what earlier sessions committed.
    """

    def __init__(self, work: Mapping[str, float], done: float = 0.0) -> None:
        self._left = dict(sorted(work.items(), key=lambda item: -item[1]))  # as they will be dispatched
        self._left_sum = sum(work.values())
        self._total = done + self._left_sum
        self._earned = self._busy = 0.0
        self._flight: dict[str, Beat | None] = {}
        self._heard_at: dict[str, float] = {}
        self._now = 0.0
        self._workers = 1

    def tick(self, now: float, flight: Mapping[str, Beat | None], workers: int) -> None:
        """Time has passed.

        Args:
            now: seconds. workers: that there are.
            flight: the units that workers are at, and the last beat of each; None: none has arrived.
        """
        self._now, self._workers = now, max(workers, len(flight), 1)
        for unit in self._flight.keys() - flight.keys():  # struck: the time is lost, and the work with it
            self._forget(unit)
        for unit, beat in flight.items():
            since = self._heard_at.setdefault(unit, now)
            # A worker's time counts when it says what came of it, or else nothing would seem to be done
            # between two beats.
            if beat != self._flight.get(unit) or now - since > _SILENCE:
                self._busy += now - since
                self._heard_at[unit] = now
        self._flight = {unit: beat for unit, beat in flight.items() if unit in self._left}

    def committed(self, unit: str, now: float) -> None:
        """Takes account of a unit's commit at a moment in seconds."""
        work = self._left.pop(unit, 0.0)
        self._left_sum -= work
        beat = self._flight.get(unit)
        self._earned += work * (1 - (beat.begun_at if beat else 0.0))
        self._now = max(now, self._now)
        self._forget(unit)

    def _forget(self, unit: str) -> None:
        self._busy += self._now - self._heard_at.pop(unit, self._now)
        self._flight.pop(unit, None)

    @property
    def fraction(self) -> float:
        """Of all work, earlier sessions' included; 0 to 1."""
        if not self._left or self._total <= 0:
            return 1.0
        return min(max((self._total - self._left_sum + self._in_flight()) / self._total, 0.0), 1.0)

    @property
    def eta_seconds(self) -> float:
        """Until the last unit is committed, at the pace of the workers so far."""
        pace = self._pace()
        return self._makespan(pace) / pace

    @property
    def flight_seconds(self) -> float | None:
        """Until the last unit in flight is committed, where no other is begun; None with none in flight."""
        if not self._flight:
            return None
        pace = self._pace()
        return max(self._ends(pace)) / pace

    def _in_flight(self) -> float:
        return sum(self._left[unit] * beat.fraction for unit, beat in self._flight.items() if beat)

    def _pace(self) -> float:
        """Expected seconds of work that a worker does in a second."""
        begun = sum(self._left[u] * (b.fraction - b.begun_at) for u, b in self._flight.items() if b)
        trust = _TRUST * self._workers
        return (trust + self._earned + max(begun, 0.0)) / (trust + self._busy)

    def _ends(self, pace: float) -> list[float]:
        """Expected seconds of work that is left of each unit in flight."""
        ends = []
        for unit, beat in self._flight.items():
            since = min(self._now - self._heard_at[unit], _SILENCE)
            ends.append(max(self._left[unit] * (1 - (beat.fraction if beat else 0.0)) - pace * since, 0.0))
        return ends

    def _makespan(self, pace: float) -> float:
        """Expected seconds of work until the last worker is done."""
        ends = self._ends(pace)
        if len(self._left) - len(self._flight) > _EXACT_UNITS:
            # Not by looking at each: a driver asks several times a second.
            waiting = self._left_sum - sum(self._left[unit] for unit in self._flight)
            return (sum(ends) + waiting) / self._workers
        ends += [0.0] * (self._workers - len(ends))
        heapq.heapify(ends)
        for unit, work in self._left.items():
            if unit not in self._flight:
                heapq.heapreplace(ends, ends[0] + work)
        return max(ends)
