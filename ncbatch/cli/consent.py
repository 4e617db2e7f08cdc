"""Asking before much is encoded once more that nobody may have meant to."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ncbatch.cli.console import err
from ncbatch.errors import UsageError

if TYPE_CHECKING:
    from ncbatch.plan.changes import Again


def ask(again: Again) -> None:
    """Asks at the terminal whether to go on.

    Raises:
        UsageError: the answer is no, or there is no terminal.
    """
    changed = again.changes.changed
    inputs = "1 input has" if changed == 1 else f"{changed:,} inputs have"
    what = (
        f"{inputs} changed since the run was planned, so {again.repeated:,} of its {again.encodings:,} "
        "encodings would be made again"
    )
    if not (sys.stdin is not None and sys.stdin.isatty() and err.is_terminal):
        raise UsageError(f"{what}; see what is left to do with --dry-run, and go on with --yes")
    err.print(f"{what}; go on? [y/N] ", end="")
    try:
        answer = input()
    except EOFError:
        answer = ""
    if answer.strip().lower() not in ("y", "yes"):
        raise UsageError("nothing was planned or encoded, as you did not answer yes")
