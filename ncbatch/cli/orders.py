"""The commands that tell a run's driver what to do, wherever it is: through the run's folder, without Ray."""

from __future__ import annotations

from ncbatch.cli.common import Run, Storage, open_run
from ncbatch.cli.console import out
from ncbatch.cli.flags import command
from ncbatch.exit_codes import ExitCode
from ncbatch.plan.orders import Action, give
from ncbatch.store import StoreOptions


@command
def pause(run: Run, /, *, store: Storage) -> ExitCode:
    """Lets a run begin nothing more until `ncbatch resume`; its driver stays, and what is in flight ends."""
    return _give(run, store, "pause", "its driver finishes what is in flight and waits for `ncbatch resume`")


@command
def resume(run: Run, /, *, store: Storage) -> ExitCode:
    """Lets a paused run go on."""
    return _give(run, store, "go-on", "its driver goes on, if one is at it")


@command
def drain(run: Run, /, *, store: Storage) -> ExitCode:
    """Ends a run's driver as soon as what is in flight is done; the same encode command continues the run."""
    return _give(run, store, "drain", "its driver finishes what is in flight and ends with exit code 3")


def _give(run: str, store: StoreOptions, action: Action, meaning: str) -> ExitCode:
    output = open_run(run, store)
    give(output, action)
    out.print(f"{output.uri}: within seconds, {meaning}")
    return ExitCode.OK
