"""When a run stops by itself: limits that know how many workers there are, and which failures are whose."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Annotated

from ncbatch.driver.draw import is_large
from ncbatch.settings import Setting, fraction

_LOSSES_PER_WORKER = 3
"""Before a run is stopped: a unit whose images kill costs two workers until its images are tried alone."""
_SAMPLE_FROM = 2000
"""Images of a run that is judged by a sample; smaller ones stop when it is certain that they will fail."""


@dataclass(frozen=True)
class Policy:
    """When to stop a run rather than go on.

    failed_share: of failed rows, looked at after `failed_after` images of this session.
    deaths: of workers while none of them gets anything done, wherever it is; at least three for each.
    refusals: times in a row that the store refused calls (403) or could not be reached, from everywhere; what
        happens to all workers at once counts as one.
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


@dataclass(frozen=True)
class Outcome:
    """What a unit's commit holds.

    ok: rows. image_faults, system_faults: failed rows by error class, where the images (or what was asked of
        them) are to blame, and where they are not. found: whether it is the commit of another attempt.
    """

    ok: int
    image_faults: Mapping[str, int] = field(default_factory=dict)
    system_faults: Mapping[str, int] = field(default_factory=dict)
    found: bool = False

    @property
    def rows(self) -> int:
        """All of them."""
        return self.ok + sum(self.image_faults.values()) + sum(self.system_faults.values())


class Limits:
    """Counts what goes wrong, and says when it is too much.

    Args:
        images: of this session, all units together.
    """

    def __init__(self, policy: Policy, before: EarlierFailures, images: int) -> None:
        self._policy, self._before, self._images = policy, before, images
        self._done = self._sampled_units = self._sampled = self._sampled_faults = 0
        self._image_faults, self._system_faults = Counter[str](), Counter[str]()
        self._works = False
        self._lost, self._lost_at = 0, set[Hashable]()
        self._sick, self._sick_at = 0, set[Hashable]()
        self._refusals, self._refused_at, self._last_call_at_refusal = 0, set[Hashable](), 0
        self.stop_reason: str | None = None

    def worked(self) -> None:
        """A worker did a unit or an image."""
        self._works = True
        self._lost = self._sick = self._refusals = 0
        for places in (self._lost_at, self._sick_at, self._refused_at):
            places.clear()

    def trial_passed(self) -> None:
        """A worker does what a trial asks for, though nothing else yet."""
        self._sick = 0
        self._sick_at.clear()

    def lost(self, at: Hashable, present: Collection[Hashable], workers: int, detail: str) -> None:
        """A worker was lost, or had to be replaced.

        Args:
            at: its place. present: the places where workers are. workers: how many there are.
        """
        self._lost += 1
        self._sick += 1
        self._lost_at.add(at)
        self._sick_at.add(at)
        limit = max(self._policy.deaths, _LOSSES_PER_WORKER * workers)
        known = _LOSSES_PER_WORKER * self._before.killed
        if not self._works and self._lost >= limit + known and self._lost_at.issuperset(present):
            self._stop(f"workers died {self._lost} times and none has finished anything (last: {detail})")
        elif self._sick >= limit and self._sick_at.issuperset(present):
            self._stop(f"workers died {self._sick} times in a row, and none works any more (last: {detail})")

    def _stop(self, reason: str) -> None:
        self.stop_reason = f"{reason}; look at the workers' logs"

    def refused(
        self,
        at: Hashable,
        present: Collection[Hashable],
        call: int,
        calls: int,
        reason: str,
        *,
        final: bool = False,
    ) -> None:
        """The store refused a worker.

        Args:
            at, present: as for `lost`. call: the number of its call. calls: how many have been made.
            final: whether the same place would be refused again.
        """
        self._refused_at.add(at)
        self._count_refusal(call, calls)
        if not self._refused_at.issuperset(present):
            return
        if final:
            self.stop_reason = reason
        elif self._refusals >= self._policy.refusals:
            self.stop_reason = f"the store failed {self._refusals} times in a row: {reason}"

    def full(self, call: int, calls: int, reason: str) -> None:
        """There was no room for what a worker had to write; arguments as for `refused`."""
        self._count_refusal(call, calls)
        if self._refusals >= self._policy.refusals:
            self.stop_reason = reason

    def _count_refusal(self, call: int, calls: int) -> None:
        if call > self._last_call_at_refusal:
            self._refusals += 1
            self._last_call_at_refusal = calls

    @property
    def wants_sample(self) -> bool:
        """Whether the run is so large that units should be drawn at random, to judge it by."""
        return self._images >= _SAMPLE_FROM

    def committed(self, outcome: Outcome, *, sampled: bool) -> None:
        """A unit is committed. sampled: it was drawn at random."""
        self._image_faults.update(outcome.image_faults)
        self._system_faults.update(outcome.system_faults)
        self._done += outcome.rows
        if sampled:
            self._sampled_units += 1
            self._sampled += outcome.rows
            self._sampled_faults += sum(outcome.image_faults.values())
        if self._done >= self._policy.failed_after and self._too_many():
            failed = self._image_faults + self._system_faults
            told = ", ".join(f"{name}: {count}" for name, count in failed.most_common())
            self.stop_reason = (
                f"{failed.total()} of {self._done} images failed ({told}); look at their errors with "
                "`ncbatch failures` before continuing"
            )

    def _too_many(self) -> bool:
        """Faults of the system are judged by what has been done so far.

        Faults of images are not, since the longest units come first, and the largest images may be those that
        are too large. They are judged by the sample; or else they stop the run when it is certain that more
        of the whole will have failed than may.
        """
        share, known = self._policy.failed_share, self._before.failed
        if self._system_faults.total() - known > share * self._done:
            return True
        if self._image_faults.total() - known > share * self._images:
            return True
        large = is_large(self._sampled, self._sampled_units)
        return large and self._sampled_faults - known > share * self._sampled
