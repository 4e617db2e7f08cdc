"""Whatever happens in whatever order: every unit ends committed, once, and only killers fail."""

from __future__ import annotations

from collections import Counter

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ncbatch.driver.health import Place
from ncbatch.driver.limits import Outcome, Policy
from ncbatch.driver.schedule import Call, CallKind, Schedule

# The breakers have tests of their own; here they must not end what is to be seen through.
NEVER_STOP = Policy(failed_share=1.0, deaths=10**6, refusals=10**6)
PICK = st.integers(0, 10**6)


class Run(RuleBasedStateMachine):
    """A driver, workers on nodes that come, fall ill and go, and a store.

    A call that touches a killer kills its worker, unless something else ends the call first. On a sick node
    every call fails, trials included. A unit is fumbled once, by
    a worker that does well in trials. All other calls can be ended in any way that is nobody's fault.
    """

    @initialize(
        sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4),
        killers=st.sets(st.integers(0, 9), max_size=6),
        nodes=st.integers(1, 3),
    )
    def plan(self, sizes: list[int], killers: set[int], nodes: int) -> None:
        self.units = {f"u{n}": [f"u{n}i{i}" for i in range(size)] for n, size in enumerate(sizes)}
        images = [image for group in self.units.values() for image in group]
        self.killers = {images[k] for k in killers if k < len(images)}
        self.committed: dict[str, set[str]] = {}
        self.now = 0.0
        self.processes = self.nodes_so_far = 0
        self.workers: list[Place] = []
        self.sick: set[str] = set()
        self.fumbled: set[str] = set()
        for _ in range(nodes):
            self.join(1)
        self.start_driver()

    def start_driver(self) -> None:
        open_units = {u: images for u, images in self.units.items() if u not in self.committed}
        self.schedule = Schedule(open_units, {u: len(i) for u, i in open_units.items()}, NEVER_STOP)
        self.schedule.workers_at(self.workers)
        self.flying: list[tuple[Call, Place]] = []

    def new_worker(self, node: str) -> None:
        self.processes += 1
        self.workers.append(Place(node, process=self.processes))

    @rule(workers=st.integers(1, 2))
    def join(self, workers: int) -> None:
        self.nodes_so_far += 1
        for _ in range(workers):
            self.new_worker(f"n{self.nodes_so_far}")
        if hasattr(self, "schedule"):
            self.schedule.workers_at(self.workers)

    @precondition(lambda self: len({place.node for place in self.workers}) > 1)
    @rule(pick=PICK)
    def lose_node(self, pick: int) -> None:
        """It takes its workers along, whatever they were doing."""
        node = self.workers[pick % len(self.workers)].node
        for call, place in self.flying:
            if place.node == node:
                self.schedule.interrupted(call, place)
        self.flying = [(call, place) for call, place in self.flying if place.node != node]
        self.workers = [place for place in self.workers if place.node != node]
        self.schedule.workers_at(self.workers)

    @rule(pick=PICK)
    def fall_ill(self, pick: int) -> None:
        self.sick.add(self.workers[pick % len(self.workers)].node)

    def idle(self) -> list[Place]:
        busy = Counter(place for _, place in self.flying)
        return [place for place in self.workers if not busy[place]]

    @rule(pick=PICK)
    def dispatch(self, pick: int) -> None:
        idle = self.idle()
        if not idle:
            return
        place = idle[pick % len(idle)]
        call = self.schedule.next_call(self.now, place)
        if call is None:
            return
        if call.kind is not CallKind.TRIAL:
            self.check(call)
        self.flying.append((call, place))

    def check(self, call: Call) -> None:
        assert call.unit not in self.committed
        others = [one for one, _ in self.flying if one.unit == call.unit and one.kind is not CallKind.TRIAL]
        if call.kind is CallKind.UNIT:
            assert not others, "a unit is called alone"
        else:
            assert call.image in self.units[call.unit]
            assert all(other.kind is CallKind.PROBE and other.image != call.image for other in others)
        assert set(call.poisoned) <= self.killers

    def touched(self, call: Call) -> set[str]:
        if call.kind is CallKind.TRIAL:
            return set()
        return {call.image} if call.image else set(self.units[call.unit]) - call.poisoned.keys()

    def strike(self, call: Call, place: Place, reason: str) -> None:
        self.schedule.struck(call, place, reason, self.now)
        self.workers.remove(place)
        self.new_worker(place.node)
        self.schedule.workers_at(self.workers)

    @precondition(lambda self: self.flying)
    @rule(pick=PICK)
    def carry_out(self, pick: int) -> None:
        """The call comes to its natural end."""
        call, place = self.flying.pop(pick % len(self.flying))
        touched = self.touched(call)
        if place.node in self.sick and (touched or call.kind is CallKind.TRIAL):
            self.strike(call, place, "internal_error")
        elif touched & self.killers:
            self.strike(call, place, "process_killed")
        elif call.kind is CallKind.TRIAL:
            self.schedule.trial_passed(place)
        elif call.kind is CallKind.PROBE:
            self.schedule.probed(call, place)
        else:
            self.committed[call.unit] = set(call.poisoned)
            outcome = Outcome(len(touched), {"process_killed": len(call.poisoned)})
            self.schedule.committed(call, place, outcome)

    @precondition(lambda self: self.flying)
    @rule(pick=PICK)
    def fumble(self, pick: int) -> None:
        """A worker dies over images that are not the reason: of each unit once."""
        index = pick % len(self.flying)
        call, place = self.flying[index]
        if call.unit not in self.fumbled and call.kind is not CallKind.TRIAL:
            self.fumbled.add(call.unit)
            self.flying.pop(index)
            self.strike(call, place, "deadline")

    @rule(calls=st.integers(1, 8))
    def go_on(self, calls: int) -> None:
        """As most often: calls are made and come back, so that a run gets as far as probing."""
        for number in range(calls):
            self.dispatch(number)
            if self.flying:
                self.carry_out(number)

    @precondition(lambda self: self.flying)
    @rule(pick=PICK)
    def interrupt(self, pick: int) -> None:
        self.schedule.interrupted(*self.flying.pop(pick % len(self.flying)))

    @precondition(lambda self: self.flying)
    @rule(pick=PICK, seconds=st.floats(0, 20))
    def refuse(self, pick: int, seconds: float) -> None:
        call, place = self.flying.pop(pick % len(self.flying))
        self.schedule.postponed(call, place, self.now, self.now + seconds, "503")

    @precondition(lambda self: self.flying)
    @rule(pick=PICK)
    def commit_elsewhere(self, pick: int) -> None:
        """Another attempt at the unit, presumed dead, has committed it: its rows stand."""
        call, place = self.flying.pop(pick % len(self.flying))
        images = self.units[call.unit]
        if call.kind is not CallKind.UNIT or self.killers & set(images):
            self.schedule.interrupted(call, place)
            return
        self.committed[call.unit] = set()
        self.schedule.committed(call, place, Outcome(len(images), found=True))

    @rule(seconds=st.floats(0, 30))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(sure=st.integers(0, 7))
    def restart_driver(self, sure: int) -> None:
        """All counters are lost; what is committed is not called again."""
        if not sure:  # seldom, or no unit would ever be struck twice
            self.start_driver()

    @invariant()
    def open_units_are_those_that_are_not_committed(self) -> None:
        if hasattr(self, "schedule"):
            assert self.schedule.open_units == len(self.units) - len(self.committed)

    def teardown(self) -> None:
        """From any state, calls that run their natural course finish the run, if one node works."""
        if not hasattr(self, "schedule"):
            return
        if self.sick.issuperset(place.node for place in self.workers):
            self.join(1)
        images = sum(map(len, self.units.values()))
        for turn in range(400 + 60 * (images + len(self.workers))):
            if self.schedule.finished:
                break
            self.now += 1.0
            self.dispatch(turn)
            if self.flying and (turn % 3 == 0 or not self.idle()):
                self.carry_out(turn)
        assert self.schedule.finished, "nothing is called and nothing waits, yet units are open"
        assert self.committed.keys() == self.units.keys()
        for unit, poisoned in self.committed.items():
            assert poisoned == self.killers & set(self.units[unit]), "killers fail, and they alone"


Run.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestRun = Run.TestCase
