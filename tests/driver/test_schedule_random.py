"""Whatever happens in whatever order: every unit ends committed, once, and only killers fail."""

from __future__ import annotations

from collections import Counter

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ncbatch.driver.schedule import (
    DEVICE_FAILURES_ALLOWED,
    STRIKES_TO_GIVE_UP,
    STRIKES_TO_ISOLATE,
    Call,
    CallKind,
    Policy,
    Schedule,
)

# The breakers have tests of their own; here they must not end what is to be seen through.
NEVER_STOP = Policy(failed_share=1.0, deaths=10**6, refusals=10**6)
PICK = st.integers(0, 10**6)


class Run(RuleBasedStateMachine):
    """A driver, its workers and a store, as far as the schedule can see them.

    A call that touches a killer kills its worker, unless something else ends the call first; all other calls
    can be ended in any way that is nobody's fault.
    """

    @initialize(
        sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4),
        killers=st.sets(st.integers(0, 9), max_size=6),
    )
    def plan(self, sizes: list[int], killers: set[int]) -> None:
        self.units = {f"u{n}": [f"u{n}i{i}" for i in range(size)] for n, size in enumerate(sizes)}
        images = [image for group in self.units.values() for image in group]
        self.killers = {images[k] for k in killers if k < len(images)}
        self.committed: dict[str, set[str]] = {}
        self.now = 0.0
        self.start_driver()

    def start_driver(self) -> None:
        open_units = {u: images for u, images in self.units.items() if u not in self.committed}
        self.schedule = Schedule(open_units, {u: len(i) for u, i in open_units.items()}, NEVER_STOP)
        self.flying: list[Call] = []
        self.device_failures: Counter[str] = Counter()

    @rule()
    def dispatch(self) -> None:
        call = self.schedule.next_call(self.now)
        if call is None:
            return
        assert call.unit not in self.committed
        others = [other for other in self.flying if other.unit == call.unit]
        if call.kind is CallKind.UNIT:
            assert not others, "a unit is called alone"
        else:
            assert call.image in self.units[call.unit]
            assert all(other.kind is CallKind.PROBE and other.image != call.image for other in others)
        assert set(call.poisoned) <= self.killers
        self.flying.append(call)

    def touched(self, call: Call) -> set[str]:
        return {call.image} if call.image else set(self.units[call.unit]) - call.poisoned.keys()

    @precondition(lambda self: self.flying)
    @rule(pick=PICK)
    def carry_out(self, pick: int) -> None:
        """The call comes to its natural end."""
        call = self.flying.pop(pick % len(self.flying))
        if self.touched(call) & self.killers:
            self.schedule.struck(call, "process_killed")
        elif call.kind is CallKind.PROBE:
            self.schedule.probed(call)
        else:
            self.committed[call.unit] = set(call.poisoned)
            self.schedule.committed(call, len(self.touched(call)), len(call.poisoned))

    @rule(calls=st.integers(1, 6))
    def go_on(self, calls: int) -> None:
        """As most often: calls are made and come back, so that a run gets as far as probing."""
        for number in range(calls):
            self.dispatch()
            if self.flying:
                self.carry_out(number)

    @precondition(lambda self: self.flying)
    @rule(pick=PICK)
    def preempt(self, pick: int) -> None:
        self.schedule.interrupted(self.flying.pop(pick % len(self.flying)))

    @precondition(lambda self: self.flying)
    @rule(pick=PICK, seconds=st.floats(0, 20))
    def refuse(self, pick: int, seconds: float) -> None:
        call = self.flying.pop(pick % len(self.flying))
        self.schedule.postponed(call, self.now + seconds, "503")

    @precondition(lambda self: self.flying)
    @rule(pick=PICK)
    def break_device(self, pick: int) -> None:
        """A device fails under a unit, at most as often as is nobody's fault."""
        index = pick % len(self.flying)
        if self.device_failures[self.flying[index].unit] < DEVICE_FAILURES_ALLOWED:
            call = self.flying.pop(index)
            self.device_failures[call.unit] += 1
            self.schedule.device_failed(call, self.now + 20, "CUDA error")

    @precondition(lambda self: self.flying)
    @rule(pick=PICK)
    def another_driver_commits(self, pick: int) -> None:
        """A call finds the commit of another driver, which poisoned nobody but killers."""
        call = self.flying.pop(pick % len(self.flying))
        if call.kind is CallKind.UNIT:
            self.committed[call.unit] = self.killers & set(self.units[call.unit])
            self.schedule.committed(call, 0, 0)
        else:
            self.schedule.interrupted(call)

    @rule(seconds=st.floats(0, 20))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(sure=st.integers(0, 7))
    def restart_driver(self, sure: int) -> None:
        if not sure:  # seldom, or no unit would ever be struck twice
            self.start_driver()

    @invariant()
    def open_is_what_is_not_committed(self) -> None:
        if hasattr(self, "schedule"):
            assert self.schedule.open_units == len(self.units) - len(self.committed)
            assert self.schedule.finished == (len(self.units) == len(self.committed))

    def teardown(self) -> None:
        """From here on nothing but killers interferes: the run comes to its end, in bounded time."""
        if not hasattr(self, "schedule"):
            return
        self.now += 20
        bound = len(self.flying) + sum(
            STRIKES_TO_ISOLATE + STRIKES_TO_GIVE_UP + 1 + len(images) for images in self.units.values()
        )
        ended = 0
        while not self.schedule.finished:
            before = len(self.flying)
            self.dispatch()
            if len(self.flying) == before:
                assert self.flying, "nothing is called and nothing waits, yet units are open"
                self.carry_out(ended)
                ended += 1
            assert ended <= bound
            assert len(self.flying) <= bound
        assert self.schedule.next_call(self.now) is None
        assert self.committed.keys() == self.units.keys()
        for unit, poisoned in self.committed.items():
            assert poisoned == self.killers & set(self.units[unit]), "killers fail, and they alone"


Run.TestCase.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
TestRun = Run.TestCase
