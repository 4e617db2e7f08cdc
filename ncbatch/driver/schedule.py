"""What is pending, struck, isolated or given up: the decisions of a run as a pure state machine.

Nothing here knows about Ray, stores or clocks; one module (`driver`) turns their events into the methods of
`Schedule`. A unit goes this way:

    pending -> calling -> committed
       ^          |
       |          v  its worker died, hung or raised: evidence, against the images or against the place
       +----------+
                  |  it happened on two nodes (or in two processes, where no other node is left)
                  v
    isolated: every image in a call of its own (a probe); those that fail on two nodes are poisoned
                  |
                  v
    pending again, with the poisoned images left out -> calling -> committed
                  |  struck again, on two nodes
                  v
    given up: a call that only writes failed rows

What failed somewhere is tried elsewhere next. Whether a place's failures count at all is for `health` to say,
and when the run stops is for `limits`. The loss of a node is never held against anything.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from enum import Enum, auto

from ncbatch.driver.dealing import Deal, Kind
from ncbatch.driver.draw import Draw
from ncbatch.driver.health import Blame, Evidence, Health, Place, Quarantine, Ruling
from ncbatch.driver.limits import EarlierFailures, Limits, Outcome, Policy

DEVICE_FAILED = "device_failed"
"""The error class of an image with which one device after the other fails."""


class CallKind(Enum):
    """What a call asks of a worker."""

    UNIT = auto()
    """Do the unit and commit it, without the poisoned images."""
    PROBE = auto()
    """Do one image, commit nothing."""
    TRIAL = auto()
    """Show that a unit like this one could be done: touch no image."""


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
    poisoned: Mapping[str, Blame] = field(default_factory=dict)


@dataclass(slots=True)
class _UnitState:
    """strikes: since it was isolated, if it was. evidence: against single images. able: did their probe."""

    images: Collection[str]
    strikes: list[Evidence] = field(default_factory=list)
    evidence: dict[str, list[Evidence]] = field(default_factory=dict)
    able: set[str] = field(default_factory=set)
    probing: set[str] = field(default_factory=set)
    isolated: bool = False
    given_up: bool = False


class _Units:
    """The units that are not committed. Most are never in trouble: they have a state once it is asked for.

    Args:
        images: of each unit.
    """

    def __init__(self, images: Mapping[str, Collection[str]]) -> None:
        self._images = dict(images)
        self._states: dict[str, _UnitState] = {}

    def __len__(self) -> int:
        return len(self._images)

    def __contains__(self, unit: str) -> bool:
        return unit in self._images

    def __getitem__(self, unit: str) -> _UnitState:
        if unit not in self._states:
            self._states[unit] = _UnitState(self._images[unit])
        return self._states[unit]

    def get(self, unit: str) -> _UnitState | None:
        """Its state; None of a unit that is committed."""
        return self[unit] if unit in self._images else None

    @property
    def first(self) -> str:
        """Any of them."""
        return next(iter(self._images))

    def remove(self, unit: str) -> bool:
        """The unit is committed; whether it was not before."""
        self._states.pop(unit, None)
        return self._images.pop(unit, None) is not None


class Schedule:
    """The units of a run, and what is to be called next.

    Times are seconds on one clock, which may begin anywhere.

    Args:
        units: images of each unit that is not committed yet.
        weights: how long each takes, in any measure; longest first.
        before: what became of some of their images before.
        kinds: of the units; see `Deal`.
    """

    def __init__(
        self,
        units: Mapping[str, Collection[str]],
        weights: Mapping[str, float],
        policy: Policy | None = None,
        before: EarlierFailures | None = None,
        kinds: Mapping[str, Kind] | None = None,
    ) -> None:
        self._units = _Units(units)
        images = sum(map(len, units.values()))
        self._health, self._limits = Health(), Limits(policy or Policy(), before or EarlierFailures(), images)
        order = {unit: n for n, unit in enumerate(sorted(units, key=lambda u: (-weights[u], u)))}
        self._deal = Deal(order, kinds)
        for unit in order:
            self._deal.put(unit)
        self._draw = Draw(units) if self._limits.wants_sample else None
        self._probes: dict[str, None] = {}
        self._struck: set[str] = set()
        self._later: list[tuple[float, int, Call]] = []
        self._calls = self._workers = 0

    @property
    def finished(self) -> bool:
        """Whether every unit is committed."""
        return not self._units

    @property
    def stop_reason(self) -> str | None:
        """Why the run should not go on, or None."""
        return self._limits.stop_reason

    @property
    def open_units(self) -> int:
        """How many units are not committed."""
        return len(self._units)

    @property
    def open_calls(self) -> int:
        """How many workers could be busy: with each open unit, with each image to be probed, and one more, on
        another node, with each unit in doubt.
        """
        to_probe = (self._undecided(self._units[unit]) for unit in self._probes if unit in self._units)
        return len(self._units) + len(self._struck) + sum(map(len, to_probe))

    def quarantines(self) -> list[Quarantine]:
        """The places that are kept from work, and why."""
        return self._health.quarantines()

    def recall(self, quarantines: Iterable[Quarantine], now: float) -> None:
        """Says which places were kept from work before, and why."""
        self._health.recall(quarantines, now)

    def workers_at(self, places: Sequence[Place]) -> None:
        """Says where there are workers, once for each; what is decided depends on it."""
        self._workers = len(places)
        self._health.present(places)

    def next_call(self, now: float, place: Place, last: str | None = None) -> Call | None:
        """The next thing to do at a place; None while nothing is to be done there.

        Args:
            last: the unit that the worker there did last.
        """
        while self._later and self._later[0][0] <= now:
            self._again(heapq.heappop(self._later)[2])
        ruling = self._health.ruling(place, now)
        if ruling is Ruling.REST:
            return None
        if ruling is Ruling.TRIAL:
            failed = self._health.begin_trial(place)
            # Of a place that an earlier driver knew as sick, any unit tells.
            return self._call(failed or self._units.first, CallKind.TRIAL)
        return self._next_probe(place) or self._next_unit(place, last)

    def _next_probe(self, place: Place) -> Call | None:
        for unit in list(self._probes):
            state = self._units.get(unit)
            undecided = self._undecided(state) if state else []
            if state is None or not (undecided or state.probing):
                del self._probes[unit]
                self._make_ready(unit)
                continue
            for image in undecided:
                if not self._health.avoids(place, state.evidence.get(image, ())):
                    state.probing.add(image)
                    return self._call(unit, CallKind.PROBE, image)
        return None

    def _undecided(self, state: _UnitState) -> list[str]:
        """Images of an isolated unit of which nothing is known yet, and that are not being probed."""
        known = state.able | state.probing | self._poisoned(state).keys()
        return [image for image in state.images if image not in known]

    def _next_unit(self, place: Place, last: str | None) -> Call | None:
        with closing(self._candidates(last)) as candidates:
            for unit in candidates:
                state = self._units[unit]
                if self._health.avoids(place, self._doubts(state)):
                    continue
                self._deal.take(unit)
                if not self._has_to_be_probed(state):
                    return self._call(unit, CallKind.UNIT)
                self._probes[unit] = None
                call = self._next_probe(place)
                if call is not None:
                    return call
        return None

    def _candidates(self, last: str | None) -> Generator[str, None, None]:
        """Units that wait: what suits the worker first, but of a large run some drawn at random before."""
        if self._draw is not None:
            unit = self._draw.next(self._calls, self._deal.waiting)
            if unit is not None:
                yield unit
        with closing(self._deal.candidates(last)) as candidates:
            yield from candidates

    def _doubts(self, state: _UnitState) -> list[Evidence]:
        """What says that the unit should be tried elsewhere."""
        poisoned = self._poisoned(state)
        return state.strikes + [
            item for image, evidence in state.evidence.items() if image not in poisoned for item in evidence
        ]

    def _has_to_be_probed(self, state: _UnitState) -> bool:
        """Takes a unit a stage further, where its strikes are enough for that."""
        if self._health.suffices(state.strikes):
            state.given_up, state.isolated = state.isolated, True
            if not state.given_up:
                state.strikes = []
        return state.isolated and not state.given_up and bool(self._undecided(state))

    def _poisoned(self, state: _UnitState) -> dict[str, Blame]:
        """The images that cannot be done, and why."""
        poisoned = {
            image: _blame(evidence)
            for image, evidence in state.evidence.items()
            if self._health.suffices(evidence)
        }
        if state.given_up:
            poisoned = dict.fromkeys(state.images, _blame(state.strikes)) | poisoned
        return poisoned

    def _call(self, unit: str, kind: CallKind, image: str | None = None) -> Call:
        self._calls += 1
        state = self._units.get(unit)
        return Call(unit, kind, self._calls, image, self._poisoned(state) if state else {})

    def _make_ready(self, unit: str) -> None:
        if unit in self._units:
            self._deal.put(unit)

    def committed(self, call: Call, place: Place, outcome: Outcome) -> None:
        """A unit's commit stands."""
        # Neither another attempt's nor failed rows for poisoned images take a worker that can encode.
        if not outcome.found and outcome.rows > len(call.poisoned):
            self._worked(place)
        if call.poisoned:
            self._health.excused(call.unit)
        if not self._units.remove(call.unit):
            return
        self._deal.take(call.unit)
        self._struck.discard(call.unit)
        sampled = self._draw is not None and call.unit in self._draw.drawn
        self._limits.committed(outcome, sampled=sampled)

    def probed(self, call: Call, place: Place) -> None:
        """An image's probe came back: it does not kill."""
        self._worked(place)
        state = self._units.get(call.unit)
        if state is not None and call.image is not None:
            state.able.add(call.image)
            state.probing.discard(call.image)

    def _worked(self, place: Place) -> None:
        self._health.worked(place)
        self._limits.worked()

    def trial_passed(self, place: Place) -> None:
        """A trial came back."""
        self._health.trial_passed(place)
        self._limits.trial_passed()

    def struck(self, call: Call, place: Place, reason: str, now: float, detail: str = "") -> None:
        """The worker of a call died, hung or raised something unexpected, or its device failed.

        Args:
            reason: becomes the error class of an image with which this happens everywhere.
            detail: what was said, for people.
        """
        self._limits.lost(place.key, self._health.keys, self._workers, detail or reason)
        if call.kind is CallKind.TRIAL:
            self._health.trial_failed(place, detail or reason, now)
            return
        evidence = self._health.failed(place, call.unit, reason, now, detail)
        state = self._units.get(call.unit)
        if state is None:
            return
        self._struck.add(call.unit)
        touched = [call.image] if call.image else [i for i in state.images if i not in call.poisoned]
        if len(touched) == 1:
            state.evidence.setdefault(touched[0], []).append(evidence)
        else:
            state.strikes.append(evidence)
        self._again(call)

    def interrupted(self, call: Call, place: Place) -> None:
        """The node is gone, or the call never started: nobody's fault, do it again."""
        if call.kind is CallKind.TRIAL:
            self._health.trial_lost(place)
        else:
            self._again(call)

    def postponed(
        self, call: Call, place: Place, now: float, until: float, reason: str, *, final: bool = False
    ) -> None:
        """The store refused the call or could not be reached; do it again later.

        Args:
            final: whether the same place would be refused again.
        """
        self._limits.refused(place.key, self._health.keys, call.number, self._calls, reason, final=final)
        if call.kind is CallKind.TRIAL:
            self._health.trial_failed(place, reason, now)
            return
        self._health.refused(place, call.unit, reason, now)
        heapq.heappush(self._later, (until, call.number, call))

    def full(self, call: Call, place: Place, until: float, reason: str) -> None:
        """There is no room in the store, whoever writes; do it again later."""
        self._limits.full(call.number, self._calls, reason)
        if call.kind is CallKind.TRIAL:
            self._health.trial_lost(place)
        else:
            heapq.heappush(self._later, (until, call.number, call))

    def _again(self, call: Call) -> None:
        state = self._units.get(call.unit)
        if state is None:
            return
        if call.image is not None:
            state.probing.discard(call.image)
        else:
            self._make_ready(call.unit)


def _blame(evidence: Sequence[Evidence]) -> Blame:
    sound = [item for item in evidence if item.confirmed]
    return Blame(sound[-1].reason, tuple(dict.fromkeys(item.place for item in sound)))
