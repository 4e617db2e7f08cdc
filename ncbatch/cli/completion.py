"""The script that completes commands and flags in a shell."""

from __future__ import annotations

from typing import Annotated, Literal

from ncbatch.cli.app import app
from ncbatch.cli.console import out
from ncbatch.cli.flags import command
from ncbatch.exit_codes import ExitCode
from ncbatch.settings import Setting


@command
def print_completion(
    shell: Annotated[Literal["bash", "zsh", "fish"], Setting("shell that the script is for", "SHELL")], /
) -> ExitCode:
    """Prints a completion script."""
    out.print(app.meta.generate_completion(prog_name="ncbatch", shell=shell))
    return ExitCode.OK
