"""What was found of a run's images, on the console."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

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
