"""How far a run is, told from its folder alone: no Ray, no driver, no model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from ncbatch.metrics.summary import Summary
from ncbatch.plan.commits import Commits
from ncbatch.plan.run import load_run
from ncbatch.plan.spec import RunSpec
from ncbatch.plan.units import Unit
from ncbatch.store import Store


@dataclass(frozen=True)
class RunStatus:
    """What stands in a run's folder.

    inputs: images of the corpus.
    images: planned, once per variant; pending: those of them in units that are not committed, even where a
        row of an earlier generation stands; units, committed_units: those that images count in.
    """

    spec: RunSpec
    inputs: int
    images: int
    pending: int
    units: int
    committed_units: int
    summary: Summary


def run_status(output: Store) -> RunStatus:
    """Raises RunError when the folder holds no run."""
    commits = Commits(output)
    run = load_run(output, commits)
    planned: Counter[str] = Counter()
    for unit in run.units:  # every variant has every input
        planned[unit.variant] += len(unit.images)
    return RunStatus(
        spec=run.spec,
        inputs=max(planned.values(), default=0),
        images=_images(run.units),
        pending=_images(run.pending),
        units=len(run.units),
        committed_units=len(run.units) - len(run.pending),
        summary=commits.summary(),
    )


def _images(units: Iterable[Unit]) -> int:
    return sum(len(unit.images) for unit in units)
