"""The command that shows a run live, in a terminal or in a browser, from what its driver writes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

from ncbatch.cli.common import Run, Storage, open_run_store
from ncbatch.cli.flags import command
from ncbatch.errors import RunError, Terminated, UsageError
from ncbatch.exit_codes import ExitCode
from ncbatch.settings import Number, Price, Section, Setting, positive_float

if TYPE_CHECKING:
    from ncbatch.driver.look import Look
    from ncbatch.store import Store

BROWSER = Section("in a browser", 1)
_LOOPBACK = "127.0.0.1"
_PORT = 8470

Web = Annotated[bool, Setting(
    "serve the run's page, live, until Ctrl-C, and print its address"
), BROWSER]  # fmt: skip
Port = Annotated[int, Setting(
    "port of the page; 0: one that is free", "N", Number(whole=True, least=0, most=65535)
), BROWSER]  # fmt: skip
Address = Annotated[str, Setting(
    "address of this machine that the page is served at; any but the loopback needs --public", "IP",
), BROWSER]  # fmt: skip
Public = Annotated[bool, Setting(
    "let other machines see the page: whoever reaches its address reads keys, errors and figures of the run, "
    "without a password and unencrypted",
), BROWSER]  # fmt: skip


@command
def watch(
    run: Run,
    /,
    *,
    every: Annotated[float, Setting("look at the run every so often", "SECONDS", positive_float)] = 5.0,
    price_per_hour: Price = None,
    web: Web = False,
    port: Port = _PORT,
    address: Address = _LOOPBACK,
    public: Public = False,
    store: Storage,
) -> ExitCode:
    """Shows a run live until it ends; the exit code is then that of the run."""
    if not web and (port != _PORT or address != _LOOPBACK or public):
        raise UsageError("--port, --address and --public are about the page of --web; give that as well")
    if web:
        from ncbatch.cli.watch_web import check_address

        check_address(address, public=public)
    output = open_run_store(run, store)
    first = _first_look(output)
    try:
        if web:
            from ncbatch.cli.watch_web import serve

            return serve(output, first, every, price_per_hour, (address, port))
        return _in_terminal(output, first, every, price_per_hour)
    except KeyboardInterrupt as interrupt:
        if isinstance(interrupt, Terminated):
            raise
        return ExitCode.OK  # who watches has seen enough


def _first_look(output: Store) -> Look:
    """Raises RunError where there is neither a run nor a driver that is about to plan one."""
    from ncbatch.driver.look import look
    from ncbatch.plan.spec import read_run

    found = look(output)
    if found.told.state == "planned":
        read_run(output)
    return found


def _in_terminal(output: Store, first: Look, every: float, price: float | None) -> ExitCode:
    from ncbatch.cli.watch_view import display
    from ncbatch.driver.look import look
    from ncbatch.store import StoreError

    found = first
    with display(output.uri, price) as show:
        show(found, "")
        while not found.is_over:
            time.sleep(every)
            trouble = ""
            try:
                found = look(output)
            except StoreError as error:
                trouble = f"the store does not answer, and is asked again: {error}"
            show(found, trouble)
    return exit_code(found)


def exit_code(found: Look) -> ExitCode:
    """What a run that is over ended with.

    Raises:
        RunError: its driver is lost, or there was none.
    """
    match found.told.state:
        case "finished":
            failed = found.snapshot is not None and found.snapshot.failed
            return ExitCode.FAILED if failed else ExitCode.OK
        case "stopped":
            return ExitCode.STOPPED
        case "interrupted":
            return ExitCode.INTERRUPTED
        case state:
            raise RunError(f"{state}: {found.told.explanation}")
