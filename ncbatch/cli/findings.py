"""What was found of a run's images, on the console."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ncbatch.cli.console import out, say
from ncbatch.exit_codes import ExitCode

if TYPE_CHECKING:
    from ncbatch.decoding.run_reader import Finding


def report_findings(findings: Iterable[Finding], success: str) -> ExitCode:
    """Prints what is wrong, and how much is not; returns an exit code."""
    fine = wrong = 0
    for finding in findings:
        if finding.problem is None:
            fine += 1
        else:
            wrong += 1
            say(f"{finding.image_key} ({finding.variant}): {finding.problem}")
    with contextlib.suppress(BrokenPipeError):  # the exit code is what was found, whoever reads
        others = f"; {wrong} {'is' if wrong == 1 else 'are'} not" if wrong else ""
        out.print(f"{fine} image{'' if fine == 1 else 's'} {success}{others}")
    return ExitCode.FAILED if wrong else ExitCode.OK


def findings_as_json(findings: Iterable[Finding], success: str, more: dict[str, Any]) -> ExitCode:
    """Prints what was found as one JSON object; returns an exit code.

    Args:
        findings: one for each row.
        success: what the number of good rows is called.
        more: what else the object holds.
    """
    fine, problems = 0, []
    for finding in findings:
        if finding.problem is None:
            fine += 1
        else:
            about = {"image_key": finding.image_key, "variant": finding.variant}
            problems.append(about | {"problem": finding.problem})
    with contextlib.suppress(BrokenPipeError):
        out.print_json(data={success: fine} | more | {"problems": problems})
    return ExitCode.FAILED if problems else ExitCode.OK
