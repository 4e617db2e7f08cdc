"""The driver: turns a plan into calls, and what becomes of the calls into decisions.

It can die at any time: everything it knows beyond this process's counters stands in the output folder.
"""

from __future__ import annotations

import logging
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ncbatch import signals
from ncbatch.driver.forecast import Forecast
from ncbatch.driver.health import Quarantine
from ncbatch.driver.kinds import kinds_of
from ncbatch.driver.lease import Heartbeat
from ncbatch.driver.limits import EarlierFailures, Outcome, Policy
from ncbatch.driver.lost_calls import LostCall
from ncbatch.driver.options import Deadlines
from ncbatch.driver.pool import Pool
from ncbatch.driver.progress import PlanCounts, Progress, RunState, Snapshot, UnitInFlight
from ncbatch.driver.run_metrics import RunMetrics
from ncbatch.driver.schedule import Call, CallKind, Schedule
from ncbatch.driver.slots import Ended
from ncbatch.driver.status_writer import StatusWriter
from ncbatch.driver.steering import Steering
from ncbatch.metrics.failures import failure_class
from ncbatch.metrics.unit_result import CommittedUnit, UnitResult
from ncbatch.plan.run import Run
from ncbatch.plan.units import Keys, Unit
from ncbatch.store import Store
from ncbatch.worker.worker import GivenBack, StoreFailure

log = logging.getLogger(__name__)

_STATUS_SECONDS = 10.0
_POSTPONE_SECONDS = 15.0
_TICK_SECONDS = 0.5


class SpeedEstimate:
    """Seconds per pixel by variant: calibrated first, then as observed."""

    def __init__(self, calibrated: dict[str, float]) -> None:
        self._seconds = dict(calibrated)

    def know(self, calibrated: dict[str, float]) -> None:
        """Takes in variants that nothing is known of yet."""
        self._seconds = calibrated | self._seconds

    def observe(self, unit: Unit, seconds: float) -> None:
        """Takes account of how long a unit took."""
        measured = seconds / unit.pixels
        # Slow to believe in speed, quick to believe in slowness: a deadline that is too short kills.
        known = self._seconds[unit.variant]
        self._seconds[unit.variant] = max(measured, 0.7 * known + 0.3 * measured)

    def expected(self, unit: Unit, pixels: int | None = None) -> float:
        """How many seconds a unit will take, or so many pixels of it."""
        return self._seconds[unit.variant] * (unit.pixels if pixels is None else pixels)


@dataclass(frozen=True)
class Work:
    """A run, and what is known of it when work on it begins.

    results: of the committed units, by unit. before: what became of pending images before. sick: places that
    were kept from work before.
    """

    run: Run
    results: Mapping[str, UnitResult]
    before: EarlierFailures = field(default_factory=EarlierFailures)
    sick: Sequence[Quarantine] = ()


class Driver:
    """Drives one run from one process.

    Args:
        show: is given a snapshot every tick.
        again: asked, when everything is committed, whether there is more to do.
        committed: is told of every unit that is committed; returns at once.
    """

    def __init__(
        self,
        work: Work,
        output: Store,
        pool: Pool,
        heartbeat: Heartbeat,
        pace: SpeedEstimate,
        steering: Steering,
        *,
        policy: Policy,
        deadlines: Deadlines,
        show: Callable[[Snapshot], None],
        again: Callable[[], Work | None] = lambda: None,
        committed: Callable[[str], None] = lambda unit: None,
    ) -> None:
        self._committed = committed
        self._pool, self._heartbeat, self._pace, self._steering = pool, heartbeat, pace, steering
        self._status = StatusWriter(output)
        self._deadlines, self._policy, self._show, self._again = deadlines, policy, show, again
        self._take(work)
        self._attempts = 0
        self._metrics = RunMetrics(heartbeat.driver)
        self._status_at, self._state_told = 0.0, ""
        self._quarantined: dict[tuple[str, str], Quarantine] = {}

    def _take(self, work: Work) -> None:
        run, pending = work.run, work.run.pending
        self._spec = run.spec
        self._units = {unit.id: unit for unit in run.units}
        self._schedule = Schedule(
            {unit.id: Keys(unit.images) for unit in pending},
            {unit.id: self._pace.expected(unit) for unit in pending},
            self._policy,
            work.before,
            kinds_of(pending, run.spec),
        )
        self._schedule.recall(work.sick, time.monotonic())
        images: Counter[str] = Counter()
        for unit in run.units:
            images[unit.variant] += len(unit.images)
        self.images = images.total()
        self.progress = Progress(images, self._forecast(run))
        self.progress.plan = PlanCounts(
            generation=max((unit.generation for unit in run.units), default=0),
            units=len(run.units),
            inputs=max(images.values(), default=0),  # every variant has every input
        )
        for unit_id, result in work.results.items():
            self.progress.add(self._units[unit_id].variant, result, resumed=True)

    def _forecast(self, run: Run) -> Forecast:
        """In expected seconds; of variants that nothing is left to do of, at the others' mean pace."""
        pending = run.pending
        work = {unit.id: self._pace.expected(unit) for unit in pending}
        mean = sum(work.values()) / max(sum(unit.pixels for unit in pending), 1)
        done = sum(unit.pixels for unit in run.units) - sum(unit.pixels for unit in pending)
        return Forecast(work, done * mean)

    def drive(self) -> str | None:
        """Works until all units are committed, the run has to stop, or Ctrl-C.

        The first SIGINT finishes what is in flight; the second, or SIGTERM, stops at once.

        Returns:
            why the run was stopped by policy, or None.

        Raises:
            KeyboardInterrupt: interrupted; what is committed stays.
        """
        with self._status:
            return self._drive()

    def _drive(self) -> str | None:
        try:
            # Not SIGTERM: who sends it (a job that is stopped, a shutdown) follows it up within seconds.
            with signals.deferred(signal.SIGINT) as asked:
                stopped = self._work(asked)
                while self._schedule.finished and not (stopped or asked) and (more := self._again()):
                    self._take(replace(more, sick=self._schedule.quarantines()))
                    stopped = self._work(asked)
        except KeyboardInterrupt:  # at once: what is in flight is dropped, but the status says so
            self._end("interrupted")
            raise
        interrupted = bool(asked) and not self._schedule.finished
        self._end("stopped" if stopped else "interrupted" if interrupted else "finished")
        if interrupted:
            raise KeyboardInterrupt
        return stopped

    def _end(self, state: RunState) -> None:
        self.progress.state = state
        self._metrics.ended(state)
        self._report(at_once=True)

    def _work(self, asked: signals.Request) -> str | None:
        """Until all is committed, or nothing is in flight any more where the run has to stop."""
        self.progress.state = "running"
        stopped: str | None = None
        told = False
        while not self._schedule.finished:
            signals.check()
            if self._heartbeat.lost:
                stopped = stopped or "another driver has taken over the run with --force"
            self._steering.count(self._pool.size)
            reasons = (self._schedule.stop_reason, self._pool.stop_reason, self._steering.stop_reason)
            stopped = stopped or next((reason for reason in reasons if reason), None)
            if asked and not told:
                told = True
                log.warning("finishing what is in flight; press Ctrl-C again to stop at once")
            self.progress.reason = stopped or ""
            draining = bool(stopped or asked)
            if draining and (self._pool.is_orphaned or not self._pool.calling):
                break
            if draining:
                self.progress.state = "finishing"
            elif self._steering.paused:
                self.progress.state = "paused"
            else:
                self.progress.state = "running"
                self._pool.grow(self._schedule.open_calls, self._quarantined.keys())
                self._dispatch()
            for ended in self._pool.events(_TICK_SECONDS):
                assert isinstance(ended.call, Call)
                self._handle(ended.call, ended)
            self._report()
        return stopped

    def _dispatch(self) -> None:
        self._schedule.workers_at(self._pool.places())
        for slot in self._pool.idle():
            assert slot.place is not None, "an idle worker has told where it is"
            call = self._schedule.next_call(time.monotonic(), slot.place, slot.last)
            if call is None:
                continue
            unit = self._units[call.unit]
            self._attempts += 1
            attempt = f"{self._heartbeat.driver}-{self._attempts}"
            self._pool.call(slot, call, unit, attempt, self._patience(call, unit))

    def _patience(self, call: Call, unit: Unit) -> float:
        """How long the call may show no sign of life: there is one after each step, and after each image.

        The images of a pack are inferred and coded together after their last step.
        """
        packs = self._spec.variant(unit.variant).recipe.uses_bits_back
        whole = packs and call.kind is CallKind.UNIT
        longest = unit.pixels if whole else unit.largest_pixels
        return max(self._deadlines.floor, self._deadlines.factor * self._pace.expected(unit, longest))

    def _handle(self, call: Call, ended: Ended) -> None:
        result, place, now = ended.result, ended.place, time.monotonic()
        schedule, unit = self._schedule, self._units[call.unit]
        match result:
            case CommittedUnit():
                schedule.committed(call, place, _outcome(result))
                self._committed(unit.id)
                self.progress.add(unit.variant, result)
                self._metrics.committed(unit.variant, result)
                self.progress.forecast.committed(unit.id, now)
                self._pace.observe(unit, ended.seconds)
            case None if call.kind is CallKind.PROBE:
                schedule.probed(call, place)
            case None if call.kind is CallKind.TRIAL:
                schedule.trial_passed(place)
            case StoreFailure(full=True):
                log.warning("nothing can be written: %s", result.message)
                schedule.full(call, place, now + _POSTPONE_SECONDS, result.message)
            case StoreFailure():
                log.warning("a worker (%s) cannot use the store: %s", place, result.message)
                until = now + _POSTPONE_SECONDS
                schedule.postponed(call, place, now, until, result.message, final=result.final)
            case GivenBack() | LostCall(blameless=True):
                schedule.interrupted(call, place)
            case LostCall():
                self._metrics.lost(result.reason)
                schedule.struck(call, place, result.reason, now, result.detail)
            case _:
                raise AssertionError(f"a worker answered {result!r} to {call}")

    def _tell_of_quarantines(self) -> None:
        """Says which nodes and devices are kept from work, or no longer, and why."""
        now = {quarantine.place.key: quarantine for quarantine in self._schedule.quarantines()}
        for key in now.keys() - self._quarantined.keys():
            failures, reason = now[key].failures, now[key].reason
            name = now[key].place.name
            log.warning("%s is kept from work after %d failures in a row (last: %s)", name, failures, reason)
        still_there = {place.key for place in self._pool.places()}
        for key in (self._quarantined.keys() - now.keys()) & still_there:
            log.warning("%s is no longer kept from work", self._quarantined[key].place.name)
        self._quarantined = now
        self.progress.quarantined = list(now.values())

    def _in_flight(self) -> list[UnitInFlight]:
        found = []
        for flight, place, beat in self._pool.flights():
            if not isinstance(call := flight.call, Call):
                continue
            unit = self._units[call.unit]
            all_images = len(unit.images) if call.kind is CallKind.UNIT else 0
            found.append(
                UnitInFlight(
                    unit=unit.id,
                    variant=unit.variant,
                    images=1 if call.kind is CallKind.PROBE else all_images,
                    worker=str(place),
                    fraction=beat.fraction if beat is not None else None,
                    seconds=time.monotonic() - flight.started,
                )
            )
        return found

    def _report(self, *, at_once: bool = False) -> None:
        self.progress.workers = self._pool.ready_workers
        self.progress.worker_seconds = self._steering.worker_seconds
        self.progress.in_flight = self._in_flight()
        self._tell_of_quarantines()
        self.progress.forecast.tick(time.monotonic(), self._pool.in_flight(), self._pool.size)
        snapshot = self.progress.snapshot(self._heartbeat.driver)
        self._show(snapshot)
        self._metrics.cost(self._steering.cost)
        starting = max(self._pool.size - self._pool.ready_workers, 0)
        self._metrics.report(snapshot, starting=starting, places=self._pool.places())
        changed = snapshot.state != self._state_told
        if at_once or changed or time.monotonic() - self._status_at > _STATUS_SECONDS:
            self._status_at, self._state_told = time.monotonic(), snapshot.state
            self._status.offer(snapshot)


def _outcome(result: CommittedUnit) -> Outcome:
    system = {name: n for name, n in result.classes.items() if failure_class(name).fault == "system"}
    images = {name: n for name, n in result.classes.items() if name not in system}
    return Outcome(result.ok, images, system, result.found)
