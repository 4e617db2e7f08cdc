"""What is pending, struck, isolated or given up: the decisions of a run as a pure state machine.

Nothing here knows about Ray, stores or clocks; one module (`driver`) turns their events into the methods of
`Schedule`. A unit goes this way:

    pending -> calling -> committed
       ^          |
       |          v  its worker died, hung or raised: a strike
       +----------+
                  |  second strike
                  v
    isolated: every image in a call of its own (a probe); the images whose probe kills are poisoned
                  |
                  v
    pending again, with the poisoned images left out -> calling -> committed
                  |  struck again and again
                  v
    given up: a call that only writes failed rows
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto

STRIKES_TO_ISOLATE = 2
STRIKES_TO_GIVE_UP = 2
"""Strikes of a unit after its images have all been probed."""


class Kind(Enum):
    UNIT = auto()
    """Do the unit and commit it, without the poisoned images."""
    PROBE = auto()
    """Do one image, commit nothing."""


@dataclass(frozen=True)
class Call:
    """One call of a worker.

    poisoned: images that get a failed row without being touched, and why.
    """

    unit: str
    kind: Kind
    attempt: int
    image: str | None = None
    poisoned: Mapping[str, str] = field(default_factory=dict)


@dataclass
class _UnitState:
    images: tuple[str, ...]
    attempts: int = 0
    strikes: int = 0
    to_probe: list[str] | None = None
    probing: set[str] = field(default_factory=set)
    poisoned: dict[str, str] = field(default_factory=dict)

    @property
    def isolated(self) -> bool:
        return self.to_probe is not None


@dataclass(frozen=True)
class Policy:
    """When to stop a run rather than go on.

    failed_share: of failed rows, looked at after `failed_after` images of this session.
    deaths: of workers without a single commit.
    refusals: calls in a row that the store refused (403) or that could not reach it.
    """

    failed_share: float = 0.05
    failed_after: int = 200
    deaths: int = 10
    refusals: int = 4


class Schedule:
    """The units of a run, and what is to be called next.

    Args:
        units: images of each unit that is not committed yet.
        weights: how long each takes, in any measure; longest first.
    """

    def __init__(
        self,
        units: Mapping[str, Collection[str]],
        weights: Mapping[str, float],
        policy: Policy | None = None,
    ) -> None:
        self._units = {unit: _UnitState(tuple(images)) for unit, images in units.items()}
        self._policy = policy or Policy()
        self._order = {unit: n for n, unit in enumerate(sorted(units, key=lambda u: (-weights[u], u)))}
        self._ready: list[tuple[int, str]] = [(n, unit) for unit, n in self._order.items()]
        heapq.heapify(self._ready)
        self._probes: list[str] = []
        self._later: list[tuple[float, str]] = []
        self._deaths = self._refusals = self._ok = self._failed = 0
        self._stop: str | None = None

    @property
    def finished(self) -> bool:
        return not self._units

    @property
    def stop_reason(self) -> str | None:
        """Why the run should not go on, or None."""
        return self._stop

    @property
    def open_units(self) -> int:
        return len(self._units)

    def next_call(self, now: float) -> Call | None:
        """The next thing to do, or None while everything open is being called or waits.

        Args:
            now: seconds on the clock that `postponed` was told about.
        """
        while self._later and self._later[0][0] <= now:
            self._make_ready(heapq.heappop(self._later)[1])
        while self._probes:
            state = self._units.get(self._probes[-1])
            if state is not None and state.to_probe:
                image = state.to_probe.pop()
                state.probing.add(image)
                return self._call(self._probes[-1], Kind.PROBE, image)
            self._probes.pop()
        while self._ready:
            unit = heapq.heappop(self._ready)[1]
            if unit in self._units:
                return self._call(unit, Kind.UNIT)
        return None

    def committed(self, call: Call, ok: int, failed: int) -> None:
        """A unit's commit stands (ours or another attempt's) with this many rows."""
        if self._units.pop(call.unit, None) is None:
            return
        self._ok, self._failed = self._ok + ok, self._failed + failed
        self._refusals = 0
        done, policy = self._ok + self._failed, self._policy
        if done >= policy.failed_after and self._failed > policy.failed_share * done:
            self._stop = (
                f"{self._failed} of {done} images failed; look at their errors with "
                "`ncbatch query` before going on"
            )

    def probed(self, call: Call) -> None:
        """An image's probe came back: it does not kill."""
        self._refusals = 0
        self._probe_done(call)

    def struck(self, call: Call, reason: str) -> None:
        """The worker of a call died, hung or raised something unexpected.

        Args:
            reason: becomes the error class of an image that does it alone.
        """
        self._deaths += 1
        if not self._ok and not self._failed and self._deaths >= self._policy.deaths:
            self._stop = (
                f"workers died {self._deaths} times without a single commit (last: {reason}); "
                "look at the workers' logs"
            )
        state = self._units.get(call.unit)
        if state is None:
            return
        if call.kind is Kind.PROBE:
            assert call.image is not None
            state.poisoned[call.image] = reason
            self._probe_done(call)
            return
        state.strikes += 1
        if not state.isolated and state.strikes >= STRIKES_TO_ISOLATE:
            self._isolate(call.unit, state)
            return
        if state.isolated and state.strikes >= STRIKES_TO_ISOLATE + STRIKES_TO_GIVE_UP:
            state.poisoned |= {image: reason for image in state.images if image not in state.poisoned}
        self._make_ready(call.unit)

    def interrupted(self, call: Call) -> None:
        """The node was taken away, or the call never started: nobody's fault, do it again."""
        self._again(call)

    def postponed(self, call: Call, until: float, reason: str) -> None:
        """The store refused the call or could not be reached; do it again later."""
        self._refusals += 1
        if self._refusals >= self._policy.refusals:
            self._stop = f"the store failed {self._refusals} calls in a row: {reason}"
        self._again(call, until)

    def lost(self, units: Iterable[str]) -> None:
        """Units that another driver has committed meanwhile."""
        for unit in units:
            self._units.pop(unit, None)

    def _call(self, unit: str, kind: Kind, image: str | None = None) -> Call:
        state = self._units[unit]
        state.attempts += 1
        return Call(unit, kind, state.attempts, image, dict(state.poisoned))

    def _make_ready(self, unit: str) -> None:
        if unit in self._units:
            heapq.heappush(self._ready, (self._order[unit], unit))

    def _again(self, call: Call, until: float | None = None) -> None:
        state = self._units.get(call.unit)
        if state is None:
            return
        if call.kind is Kind.PROBE:
            assert call.image is not None and state.to_probe is not None
            state.probing.discard(call.image)
            state.to_probe.append(call.image)
            self._probes.append(call.unit)
        elif until is None:
            self._make_ready(call.unit)
        else:
            heapq.heappush(self._later, (until, call.unit))

    def _isolate(self, unit: str, state: _UnitState) -> None:
        state.to_probe = list(reversed(state.images))
        self._probes.append(unit)

    def _probe_done(self, call: Call) -> None:
        state = self._units.get(call.unit)
        if state is None:
            return
        assert call.image is not None
        state.probing.discard(call.image)
        if not state.to_probe and not state.probing:
            self._make_ready(call.unit)
