"""The command that tells of failed images."""

from __future__ import annotations

from typing import Annotated

from ncbatch.cli.common import Json, Run, Storage, open_run
from ncbatch.cli.console import out, print_table
from ncbatch.cli.flags import command
from ncbatch.exit_codes import ExitCode
from ncbatch.logs import LOST_WORKER_LOGS
from ncbatch.settings import Setting, natural


@command
def failures(
    run: Run,
    /,
    *,
    examples: Annotated[int, Setting("failed images shown per class", "N", natural)] = 3,
    json: Json = False,
    store: Storage,
) -> ExitCode:
    """Tells which images of a run failed, why, and what can be done."""
    from ncbatch.metrics.failures import failures_of

    found = failures_of(open_run(run, store), examples)
    if json:
        classes = [
            {
                "error_class": f.name,
                "count": f.count,
                "fault": f.known.fault,
                "remedy": f.known.remedy,
                "examples": [vars(example) | {"log": example.lines} for example in f.examples],
            }
            for f in found
        ]
        out.print_json(data={"failed": sum(f.count for f in found), "classes": classes})
        return ExitCode.OK
    if not found:
        out.print("no failed rows")
        return ExitCode.OK
    print_table(("error class", "rows", "what to do"), [(f.name, f.count, f.known.remedy) for f in found])
    for f in found:
        for example in f.examples:
            where = f"on {example.host}, attempt {example.attempt}"
            out.print(f"{f.name}: {example.image_key} ({example.variant}): {example.error} ({where})")
            if not f.known.kills:
                out.print(f"  log: {example.lines}")
        if f.examples and f.count > len(f.examples):
            out.print(f"{f.name}: ... and {f.count - len(f.examples)} more")
    if any(f.examples and f.known.kills for f in found):
        out.print(
            "the log of a worker that was lost, of which the error names the process and the host, is there "
            f"{LOST_WORKER_LOGS}"
        )
    return ExitCode.OK
