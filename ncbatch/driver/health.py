"""Which places can be trusted: a circuit breaker for every device of every node. Pure: told what happens.

After a failure a place is suspect. The next thing that one of its workers is asked for is a trial: a check of
everything that a unit needs (store, model, device), which has nothing to do with any image.

    works -> suspect -> works          the trial passed: what failed there is evidence against its images
                     -> quarantined    the trial failed: what failed there says nothing about images
    works -> quarantined               it failed one unit after the other, though it passes its trials
    quarantined -> works               a later trial passed; the next failure quarantines it again, for longer

So evidence counts from the moment when its place has shown that it works otherwise, by a trial or by work.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable
from dataclasses import dataclass, field
from enum import Enum, auto

UNITS_TO_SUSPECT = 3
"""Units in a row that a place fails before it is quarantined, whatever its trials say."""
FIRST_REST = 5.0
"""Seconds that a place rests after the store refused it, and before the trial that may end its quarantine,
which doubles each time."""
LONGEST_REST = 600.0


@dataclass(frozen=True)
class Place:
    """Where a worker computes.

    node, device: together they are what may be sick. host: the node's name, for people. process: of the
    worker, on its node.
    """

    node: str
    device: str = "cpu"
    host: str = ""
    process: int = 0

    @property
    def key(self) -> tuple[str, str]:
        """What is sick or healthy as a whole."""
        return self.node, self.device

    @property
    def name(self) -> str:
        """Of the node and its device, for people."""
        host = self.host or self.node
        if self.node != host:
            host += f" (node {self.node[:8]})"
        return host if self.device == "cpu" else f"{self.device} of {host}"

    def __str__(self) -> str:
        return f"process {self.process} on {self.name}"


class Ruling(Enum):
    """What a worker is given next."""

    WORK = auto()
    TRIAL = auto()
    REST = auto()


@dataclass
class Evidence:
    """That something was not done at a place. reason: an error class.

    confirmed: the place works otherwise. void: it does not, so that this says nothing.
    """

    place: Place
    reason: str
    confirmed: bool = False
    void: bool = False


@dataclass(frozen=True)
class Blame:
    """What sound evidence says of an image. reason: an error class. places: where it was not done."""

    reason: str
    places: tuple[Place, ...] = ()


@dataclass(frozen=True)
class Quarantine:
    """A place that is kept from work.

    failures: of units and trials since it last did any work. reason: of the last of them.
    """

    place: Place
    failures: int
    reason: str


@dataclass
class _Record:
    """Of one device of one node, since it last did any work.

    streak: units that failed here. open: evidence that is not confirmed yet. trials_fail: the last one did.
    trying: one is under way. ready_at, trial_at: when it may be given anything, and a trial. rests: how often
    it was quarantined.
    """

    place: Place
    unit: str = ""
    reason: str = ""
    failures: int = 0
    streak: set[str] = field(default_factory=set)
    open: list[Evidence] = field(default_factory=list)
    suspect: bool = True
    quarantined: bool = False
    trials_fail: bool = False
    trying: bool = False
    ready_at: float = 0.0
    trial_at: float = 0.0
    rests: int = 0

    def quarantine(self, now: float) -> None:
        self.quarantined = self.suspect = True
        self.trial_at = now + min(FIRST_REST * 2**self.rests, LONGEST_REST)
        self.rests += 1


class Health:
    """Of all places where workers of a run have been."""

    def __init__(self) -> None:
        self._records: dict[Hashable, _Record] = {}
        self._present: dict[Hashable, Place] = {}

    def present(self, places: Iterable[Place]) -> None:
        """Says where workers are now."""
        self._present = {place.key: place for place in places}

    @property
    def keys(self) -> Collection[Hashable]:
        """The places where workers are now."""
        return self._present.keys()

    def _usable(self) -> list[Place]:
        records = self._records
        return [p for key, p in self._present.items() if key not in records or not records[key].quarantined]

    def ruling(self, place: Place, now: float) -> Ruling:
        """What a worker that waits at a place is given at a time in seconds."""
        record = self._records.get(place.key)
        if record is None or not record.suspect:
            return Ruling.WORK
        if now < record.ready_at:
            return Ruling.REST
        rests = record.quarantined and now < record.trial_at
        if record.quarantined and self._usable():
            return Ruling.REST if record.trying or rests else Ruling.TRIAL
        # A place that is all there is left works even where its trials fail: they may be wrong.
        return Ruling.WORK if record.trying or (rests and record.trials_fail) else Ruling.TRIAL

    def begin_trial(self, place: Place) -> str:
        """Notes that a trial begins; returns the unit that failed there last."""
        record = self._records[place.key]
        record.trying = True
        return record.unit

    def failed(self, place: Place, unit: str, reason: str, now: float, detail: str = "") -> Evidence:
        """A unit, or an image of it, was not done at a place. reason: an error class; detail: for people.

        Returns:
            the evidence of that, which later events confirm or make void.
        """
        record = self._failure(place, unit, detail or reason, now)
        evidence = Evidence(place, reason, void=record.trials_fail)
        if not evidence.void:
            record.open.append(evidence)
        return evidence

    def refused(self, place: Place, unit: str, reason: str, now: float) -> None:
        """The store refused a place, or could not be reached from there."""
        self._failure(place, unit, reason, now).ready_at = now + FIRST_REST

    def _failure(self, place: Place, unit: str, reason: str, now: float) -> _Record:
        record = self._records.setdefault(place.key, _Record(place))
        record.place, record.unit, record.reason = place, unit, reason
        record.failures += 1
        record.streak.add(unit)
        record.suspect = True
        if not record.quarantined and (record.rests or len(record.streak) >= UNITS_TO_SUSPECT):
            record.quarantine(now)
        return record

    def worked(self, place: Place) -> None:
        """A place did a unit or an image: all is well there, whatever was before."""
        record = self._records.pop(place.key, None)
        for evidence in record.open if record else ():
            evidence.confirmed = True

    def trial_passed(self, place: Place) -> None:
        """A place does what a trial asks for."""
        record = self._records.get(place.key)
        if record is None:
            return
        for evidence in record.open:
            evidence.confirmed = True
        record.open.clear()
        record.suspect = record.quarantined = record.trials_fail = record.trying = False

    def trial_failed(self, place: Place, reason: str, now: float) -> None:
        """A place does not even do what a trial asks for."""
        record = self._records.setdefault(place.key, _Record(place))
        for evidence in record.open:
            evidence.void = True
        record.open.clear()
        record.reason, record.trials_fail, record.trying = reason, True, False
        record.failures += 1
        record.quarantine(now)

    def trial_lost(self, place: Place) -> None:
        """A trial had no outcome."""
        if place.key in self._records:
            self._records[place.key].trying = False

    def excused(self, unit: str) -> None:
        """It was the images' fault that a unit failed, wherever it did."""
        for record in self._records.values():
            record.streak.discard(unit)

    def recall(self, quarantines: Iterable[Quarantine], now: float) -> None:
        """Takes over what an earlier driver, or an earlier part of this run, knew of sick places: each has to
        pass a trial before it gets work, at once, and is quarantined again by its next failure.
        """
        for known in quarantines:
            record = self._records.setdefault(known.place.key, _Record(known.place))
            record.failures, record.reason = known.failures, known.reason
            record.quarantine(now)
            record.trial_at = now

    def quarantines(self) -> list[Quarantine]:
        """The places that are kept from work, where there are workers now."""
        return [
            Quarantine(record.place, record.failures, record.reason)
            for key, record in self._records.items()
            if record.quarantined and key in self._present
        ]

    def suffices(self, evidence: Collection[Evidence]) -> bool:
        """Whether so many have failed at the same thing that it must be the reason: two nodes, or two
        processes where no other node can try it.
        """
        return self._are_enough([item.place for item in evidence if item.confirmed])

    def _are_enough(self, places: Collection[Place]) -> bool:
        nodes = {place.node for place in places}
        if len(nodes) >= 2:
            return True
        if any(place.node not in nodes for place in self._usable()):
            return False
        return len({(place.node, place.process) for place in places}) >= 2

    def avoids(self, place: Place, evidence: Collection[Evidence]) -> bool:
        """Whether something that failed before should rather be tried elsewhere (on another node, or on
        another device where there is one node), or be left until a trial has shown what that means.
        """
        if self._waits(evidence):
            return True
        places, usable = [item.place for item in evidence if not item.void], self._usable()
        levels: tuple[Callable[[Place], Hashable], ...] = (lambda p: p.node, lambda p: p.key)
        for level in levels:
            seen = {level(one) for one in places}
            if level(place) not in seen:
                return False
            if any(level(one) not in seen for one in usable):
                return True
        return any(self._is_on_trial(item) for item in evidence)

    def _waits(self, evidence: Collection[Evidence]) -> bool:
        """Whether trials that are under way decide, so that nobody need be lost to it meanwhile."""
        pending = [item.place for item in evidence if self._is_on_trial(item)]
        return bool(pending) and self._are_enough([i.place for i in evidence if i.confirmed] + pending)

    def _is_on_trial(self, item: Evidence) -> bool:
        record = self._records.get(item.place.key)
        still_open = not item.confirmed and not item.void and item.place.key in self._present
        return still_open and record is not None and not record.trials_fail
