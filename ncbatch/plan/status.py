"""How far a run is, told from its folder alone: no Ray, no driver, no model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Set
from dataclasses import dataclass

from ncbatch.metrics.summary import Summary
from ncbatch.plan.commits import Commits
from ncbatch.plan.generations import standing_units
from ncbatch.plan.spec import RunFile, RunSpec, read_run
from ncbatch.store import Store


@dataclass(frozen=True)
class PlanProgress:
    """How much of a run's plan is done.

    inputs: images of the corpus.
    images: planned, once per variant; pending: those of them in units that are not committed, even where a
        row of an earlier generation stands; units, committed_units: those that images count in.
    """

    inputs: int
    images: int
    pending: int
    units: int
    committed_units: int


@dataclass(frozen=True)
class RunStatus(PlanProgress):
    """What stands in a run's folder."""

    spec: RunSpec
    summary: Summary


def run_status(output: Store) -> RunStatus:
    """Raises RunError when the folder holds no run."""
    stored, commits = read_run(output), Commits(output)
    counts = count_plan(stored, output, commits.units)
    return RunStatus(**vars(counts), spec=stored.spec, summary=commits.summary())


def count_plan(stored: RunFile, output: Store, committed: Set[str]) -> PlanProgress:
    """Counts what is planned and what of it is committed, without holding the plan.

    Args:
        stored: the run.
        output: its folder.
        committed: the ids of the units that are committed.

    Raises:
        RunError: a plan file is missing or damaged.
    """
    planned: Counter[str] = Counter()
    pending = units = done = 0
    for unit in standing_units(stored, output):
        images = len(unit.images)
        planned[unit.variant] += images
        units += 1
        if unit.id in committed:
            done += 1
        else:
            pending += images
    # Every variant has every input.
    return PlanProgress(max(planned.values(), default=0), planned.total(), pending, units, done)
