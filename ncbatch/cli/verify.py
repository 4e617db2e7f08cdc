"""Commands for what went wrong in a run: finding it, and setting it right."""

from __future__ import annotations

import argparse
import contextlib
import json
import shlex
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from ncbatch.cli.common import open_run, open_run_store, store_options, store_words
from ncbatch.cli.console import err, out, print_table
from ncbatch.cli.decode import report_findings
from ncbatch.exit_codes import ExitCode
from ncbatch.store import Store
from ncbatch.words import counted

if TYPE_CHECKING:
    from ncbatch.decoding.run_reader import Finding
    from ncbatch.plan.generations import StandingRow
    from ncbatch.plan.spec import RunSpec


def failures(args: argparse.Namespace) -> int:
    from ncbatch.metrics.failures import failures_of

    output = open_run(args, args.output)
    found = failures_of(output, args.examples)
    if args.json:
        classes = [
            {
                "error_class": f.name,
                "count": f.count,
                "fault": f.known.fault,
                "remedy": f.known.remedy,
                "examples": [vars(example) for example in f.examples],
            }
            for f in found
        ]
        out.print_json(json.dumps({"failed": sum(f.count for f in found), "classes": classes}))
        return 0
    if not found:
        out.print("no failed rows")
        return 0
    print_table(("error class", "rows", "what to do"), [(f.name, f.count, f.known.remedy) for f in found])
    for f in found:
        for example in f.examples:
            out.print(f"{f.name}: {example.image_key} ({example.variant}): {example.error}")
        if f.examples and f.count > len(f.examples):
            out.print(f"{f.name}: ... and {f.count - len(f.examples)} more")
    return 0


def verify(args: argparse.Namespace) -> int:
    output = open_run(args, args.output)
    from ncbatch.decoding.repair import planned_already, restore_models
    from ncbatch.decoding.run_reader import RunReader
    from ncbatch.plan.spec import read_run
    from ncbatch.plan.status import run_status

    spec = read_run(output).spec
    if args.repair:
        restore_models(output, spec, store_options(args))
    damaged: list[StandingRow] = []
    problems: list[dict[str, str]] = []
    checked = 0

    def noted(findings: Iterable[Finding]) -> Iterator[Finding]:
        nonlocal checked
        for finding in findings:
            checked += 1
            if finding.problem is not None:
                about = {"image_key": finding.image_key, "variant": finding.variant}
                problems.append(about | {"problem": finding.problem})
            if finding.damaged:
                damaged.append(finding.damaged)
            yield finding

    findings = noted(RunReader(output, variant=args.variant).verify())
    if args.json:
        for _ in findings:
            pass  # they are noted
        code = int(ExitCode.FAILED if problems else ExitCode.OK)
    else:
        code = report_findings(findings, "verified: there, hashed as committed and decoded")
    planned = 0
    if damaged:
        planned = (
            _plan_again(args, spec, output, damaged) if args.repair else planned_already(output, damaged)
        )
    run = run_status(output)
    with contextlib.suppress(BrokenPipeError):  # the exit code is what was found, whoever reads
        if args.json:
            counts = {"verified": checked - len(problems), "planned_again": planned}
            counts |= {"failed_rows": run.summary.failed, "pending": run.pending}
            out.print_json(json.dumps(counts | {"problems": problems}))
            return code
        if run.summary.failed or run.pending:
            out.print(
                f"{counted(run.summary.failed, 'rows')} failed, {counted(run.pending, 'images')} pending"
            )
        _print_what_mends(args, spec, output, planned, 0 if args.repair else len(damaged) - planned)
    return code


def _print_what_mends(
    args: argparse.Namespace, spec: RunSpec, output: Store, planned: int, unplanned: int
) -> None:
    """The commands that go on from damaged rows that are planned again, and from those that are not."""
    from ncbatch.cli.encode_command import encode_command

    if unplanned:
        command = shlex.join(["ncbatch", "verify", args.output, "--repair", *store_words(args)])
        out.print(f"`{command}` plans {f'the other {unplanned}' if planned else 'them'} again")
    if planned:
        out.print(f"{counted(planned, 'damaged rows')} planned again; this command encodes them:")
        out.print(encode_command(spec, output.uri, store_words(args)))


def _plan_again(
    args: argparse.Namespace, spec: RunSpec, output: Store, damaged: Sequence[StandingRow]
) -> int:
    """Plans damaged rows again, and says why where it cannot; how many are planned."""
    from ncbatch.decoding.repair import plan_repair

    repair = plan_repair(output, open_run_store(args, spec.corpus), damaged)
    for loss in repair.losses:
        err.print(f"{loss.image_key} ({loss.variant}) is not planned again: {loss.why}")
    return repair.planned
