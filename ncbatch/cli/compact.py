"""The command that merges the table's parts."""

from __future__ import annotations

from ncbatch.cli.common import Json, Run, Storage, open_run
from ncbatch.cli.console import out
from ncbatch.cli.flags import command
from ncbatch.exit_codes import ExitCode
from ncbatch.words import counted


@command
def compact(run: Run, /, *, json: Json = False, store: Storage) -> ExitCode:
    """Merges a run's unit commits into few large table parts."""
    output = open_run(run, store)
    from ncbatch.metrics.compact import compact as run_compact

    result = run_compact(output)
    if json:
        out.print_json(data={noun: getattr(result, noun) for noun in ("rows", "units", "parts")})
        return ExitCode.OK
    rows, units, parts = (counted(getattr(result, noun), noun) for noun in ("rows", "units", "parts"))
    out.print(f"metrics/ has {rows} of {units} in {parts}")
    return ExitCode.OK
