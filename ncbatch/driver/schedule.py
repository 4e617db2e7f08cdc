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
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Annotated

from ncbatch.settings import Setting, fraction

STRIKES_TO_ISOLATE = 2
STRIKES_TO_GIVE_UP = 2
"""Strikes of a unit after its images have all been probed."""

DEVICE_FAILURES_ALLOWED = 3
"""Of the devices that did a unit, before its images may be the reason and each one more is a strike."""

DEVICE_FAILED = "device_failed"
"""The error class of an image with which one device after the other fails."""


class CallKind(Enum):
    """What a call asks of a worker."""

    UNIT = auto()
    """Do the unit and commit it, without the poisoned images."""
    PROBE = auto()
    """Do one image, commit nothing."""


@dataclass(frozen=True)
class Call:
    """One call of a worker.

    number: counts the calls of a schedule.
    poisoned: images that get a failed row without being touched, and why.
    """

    unit: str
    kind: CallKind
    number: int
    image: str | None = None
    poisoned: Mapping[str, str] = field(default_factory=dict)


@dataclass
class _UnitState:
    images: tuple[str, ...]
    strikes: int = 0
    device_failures: int = 0
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
    deaths: of workers before any of them has finished anything.
    refusals: times in a row that the store refused calls (403) or could not be reached; what happens to all
        workers at once counts as one.
    """

    failed_share: Annotated[float, Setting(
        "stop the run when more than this share of its images failed, once 200 of them are done; 1: never",
        "SHARE", fraction, name="max-failed",
    )] = 0.05  # fmt: skip
    failed_after: int = 200
    deaths: int = 10
    refusals: int = 4


@dataclass(frozen=True)
class EarlierFailures:
    """Of the images to be done: how many failed before, and how many of them were lost with their worker.

    When they do so again it is no news, and no reason to stop.
    """

    failed: int = 0
    killed: int = 0


class Schedule:
    """The units of a run, and what is to be called next.

    Args:
        units: images of each unit that is not committed yet.
        weights: how long each takes, in any measure; longest first.
        before: what became of some of their images before.
    """

    def __init__(
        self,
        units: Mapping[str, Collection[str]],
        weights: Mapping[str, float],
        policy: Policy | None = None,
        before: EarlierFailures | None = None,
    ) -> None:
        self._units = {unit: _UnitState(tuple(images)) for unit, images in units.items()}
        self._policy = policy or Policy()
        self._before = before or EarlierFailures()
        self._order = {unit: n for n, unit in enumerate(sorted(units, key=lambda u: (-weights[u], u)))}
        self._ready: list[tuple[int, str]] = [(n, unit) for unit, n in self._order.items()]
        heapq.heapify(self._ready)
        self._probes: list[str] = []
        self._later: list[tuple[float, int, Call]] = []
        self._calls = self._last_call_at_refusal = 0
        self._deaths = self._refusals = self._ok = self._failed = 0
        self._workers_work = False
        self._stop: str | None = None

    @property
    def finished(self) -> bool:
        """Whether every unit is committed."""
        return not self._units

    @property
    def stop_reason(self) -> str | None:
        """Why the run should not go on, or None."""
        return self._stop

    @property
    def open_units(self) -> int:
        """How many units are not committed."""
        return len(self._units)

    @property
    def open_calls(self) -> int:
        """How many workers could be busy: one with each open unit, and one with each image to be probed."""
        to_probe = (self._units[unit].to_probe or () for unit in set(self._probes) if unit in self._units)
        return len(self._units) + sum(map(len, to_probe))

    def next_call(self, now: float) -> Call | None:
        """The next thing to do, or None while everything open is being called or waits.

        Args:
            now: seconds on the clock that `postponed` was told about.
        """
        while self._later and self._later[0][0] <= now:
            self._again(heapq.heappop(self._later)[2])
        while self._probes:
            state = self._units.get(self._probes[-1])
            if state is not None and state.to_probe:
                image = state.to_probe.pop()
                state.probing.add(image)
                return self._call(self._probes[-1], CallKind.PROBE, image)
            self._probes.pop()
        while self._ready:
            unit = heapq.heappop(self._ready)[1]
            if unit in self._units:
                return self._call(unit, CallKind.UNIT)
        return None

    def committed(self, call: Call, ok: int, failed: int) -> None:
        """A unit's commit stands (ours or another attempt's) with this many rows."""
        self._refusals = 0
        # Failed rows for poisoned images take no worker that can encode.
        self._workers_work |= ok + failed > len(call.poisoned)
        if self._units.pop(call.unit, None) is None:
            return
        self._ok, self._failed = self._ok + ok, self._failed + failed
        done, policy = self._ok + self._failed, self._policy
        news = self._failed - self._before.failed
        if done >= policy.failed_after and news > policy.failed_share * done:
            self._stop = (
                f"{self._failed} of {done} images failed; look at their errors with "
                "`ncbatch query` before continuing"
            )

    def probed(self, call: Call) -> None:
        """An image's probe came back: it does not kill."""
        self._refusals, self._workers_work = 0, True
        self._probe_done(call)

    def struck(self, call: Call, reason: str) -> None:
        """The worker of a call died, hung or raised something unexpected.

        Args:
            reason: becomes the error class of an image that does it alone.
        """
        self._lost_worker(reason)
        self._strike(call, reason)

    def device_failed(self, call: Call, until: float, detail: str) -> None:
        """The device of a call's worker failed: do it again later, after others have shown whether they can.

        Where it happens again and again, on whatever device, it counts as the images' fault.
        """
        self._lost_worker(detail)
        state = self._units.get(call.unit)
        if state is None:
            return
        state.device_failures += 1
        if state.device_failures > DEVICE_FAILURES_ALLOWED:
            self._strike(call, DEVICE_FAILED)
        else:
            heapq.heappush(self._later, (until, call.number, call))

    def _lost_worker(self, reason: str) -> None:
        self._deaths += 1
        deaths = self._policy.deaths + (STRIKES_TO_ISOLATE + 1) * self._before.killed
        if not self._workers_work and self._deaths >= deaths:
            self._stop = (
                f"workers died {self._deaths} times and none has finished anything (last: {reason}); "
                "look at the workers' logs"
            )

    def _strike(self, call: Call, reason: str) -> None:
        state = self._units.get(call.unit)
        if state is None:
            return
        if call.kind is CallKind.PROBE:
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
        if call.number > self._last_call_at_refusal:
            self._refusals += 1
            self._last_call_at_refusal = self._calls
        if self._refusals >= self._policy.refusals:
            self._stop = f"the store failed {self._refusals} times in a row: {reason}"
        heapq.heappush(self._later, (until, call.number, call))

    def _call(self, unit: str, kind: CallKind, image: str | None = None) -> Call:
        self._calls += 1
        return Call(unit, kind, self._calls, image, dict(self._units[unit].poisoned))

    def _make_ready(self, unit: str) -> None:
        if unit in self._units:
            heapq.heappush(self._ready, (self._order[unit], unit))

    def _again(self, call: Call) -> None:
        state = self._units.get(call.unit)
        if state is None:
            return
        if call.kind is CallKind.PROBE:
            assert call.image is not None and state.to_probe is not None
            state.probing.discard(call.image)
            state.to_probe.append(call.image)
            self._probes.append(call.unit)
        else:
            self._make_ready(call.unit)

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
