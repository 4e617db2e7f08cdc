"""What was found of a run's images, on the console."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

from ncbatch.cli.console import out, progress_display, say
from ncbatch.cli.flags import from_environment
from ncbatch.decoding.sample import Sample, sample_of
from ncbatch.driver.options import CheckOptions, PoolConfig
from ncbatch.errors import UsageError
from ncbatch.exit_codes import ExitCode
from ncbatch.settings import Section, Setting

if TYPE_CHECKING:
    from ncbatch.decoding.check_plan import Scope
    from ncbatch.decoding.destination import Destination
    from ncbatch.decoding.findings import Finding
    from ncbatch.driver.check_run import Checked
    from ncbatch.driver.progress import Snapshot
    from ncbatch.metrics.findings import FindingRow
    from ncbatch.plan.generations import StandingRow
    from ncbatch.store import Store, StoreOptions

ON_A_CLUSTER = Section("on a cluster", 7)
OnACluster = Annotated[CheckOptions, ON_A_CLUSTER]
SampleOf = Annotated[Sample | None, Setting(
    "only so many images, drawn at random, or such a percentage of them, as in 1%", "N", sample_of,
    default="all of them",
)]  # fmt: skip


def check_options(options: CheckOptions) -> None:
    """Raises UsageError: something is said of a cluster, and none is to be used."""
    if options.ray_address is not None:
        return
    given = [name for name in ("anew", "force") if getattr(options, name)]
    if options.pool != from_environment(PoolConfig):
        given.append("workers")
    if given:
        raise UsageError(f"--{given[0]} is for clusters; name one with --ray-address, such as local")


@dataclass
class Found:
    """What was found: how many rows are fine, and what is wrong with the others, as it comes."""

    findings: Iterable[Finding]
    fine: int = 0
    problems: list[Finding] = field(default_factory=list)

    def noted(self) -> Iterator[Finding]:
        """The findings with a problem, once; all of them are counted on the way."""
        for finding in self.findings:
            if finding.problem is None:
                self.fine += 1
            else:
                self.problems.append(finding)
                yield finding

    def as_json(self) -> list[dict[str, str | None]]:
        """The problems for programs."""
        return [
            {"image_key": found.image_key, "variant": found.variant, "problem": found.problem}
            for found in self.problems
        ]

    @property
    def code(self) -> ExitCode:
        """What a command ends with."""
        return ExitCode.FAILED if self.problems else ExitCode.OK


def check_and_show(
    output: Store,
    scope: Scope,
    options: CheckOptions,
    store: StoreOptions,
    destination: Destination | None = None,
) -> Found:
    """Carries a check out on a cluster, and shows how far it is; arguments as of `check_run`."""
    from ncbatch.cli.progress_line import progress_line
    from ncbatch.driver.check_run import check_run  # torch and Ray, which take seconds

    with progress_display() as show:

        def shown(snapshot: Snapshot) -> None:
            show(progress_line(snapshot), snapshot.is_over)

        return _found(check_run(output, scope, options, store, shown, destination))


def _found(checked: Checked) -> Found:
    """What a check on a cluster found."""
    from ncbatch.decoding.findings import Finding

    done = checked.done
    return Found(
        (
            Finding(
                row.image_key,
                row.variant,
                problem=row.problem,
                damaged=_standing(row) if row.damaged else None,
            )
            for row in checked.problems()
        ),
        done.checked - done.problems,
    )


def _standing(row: FindingRow) -> StandingRow:
    from ncbatch.plan.generations import StandingRow

    return StandingRow(row.variant, row.image_key, row.generation, error_class=None)


def report_findings(found: Found, success: str) -> ExitCode:
    """Prints what is wrong, and how much is not; returns an exit code."""
    for finding in found.noted():
        say(f"{finding.image_key} ({finding.variant}): {finding.problem}")
    fine, wrong = found.fine, len(found.problems)
    with contextlib.suppress(BrokenPipeError):  # the exit code is what was found, whoever reads
        others = f"; {wrong} {'is' if wrong == 1 else 'are'} not" if wrong else ""
        out.print(f"{fine} image{'' if fine == 1 else 's'} {success}{others}")
    return found.code


def findings_as_json(found: Found, success: str, more: dict[str, Any]) -> ExitCode:
    """Prints what was found as one JSON object; returns an exit code.

    Args:
        found: one finding for each row.
        success: what the number of good rows is called.
        more: what else the object holds.
    """
    for _ in found.noted():
        pass
    with contextlib.suppress(BrokenPipeError):
        out.print_json(data={success: found.fine} | more | {"problems": found.as_json()})
    return found.code
