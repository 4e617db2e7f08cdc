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
    return _give(
        run, store, "pause",
        "within seconds, its driver finishes what is in flight and waits for `ncbatch resume`",
        "no driver is at it now; the next one waits for `ncbatch resume`",
    )  # fmt: skip


@command
def resume(run: Run, /, *, store: Storage) -> ExitCode:
    """Lets a paused run go on."""
    return _give(
        run, store, "go-on", "within seconds, its driver goes on",
        "no driver is at it now, and the next one will not wait",
    )  # fmt: skip


@command
def drain(run: Run, /, *, store: Storage) -> ExitCode:
    """Ends a run's driver as soon as what is in flight is done; the same encode command continues the run."""
    return _give(
        run, store, "drain",
        "within seconds, its driver finishes what is in flight and ends with exit code 3",
        "no driver is at it now, so there is nothing to drain",
    )  # fmt: skip


def _give(run: str, store: StoreOptions, action: Action, meaning: str, without_driver: str) -> ExitCode:
    from ncbatch.driver.lease import read_lease

    output = open_run(run, store)
    lease = read_lease(output)
    driven = lease is not None and not lease.held_by_dead_process()
    if driven or action != "drain":
        give(output, action)
    out.print(f"{output.uri}: {meaning if driven else without_driver}")
    return ExitCode.OK
