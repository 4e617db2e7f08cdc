"""Runs a command line: from its words to an exit code, whatever happens in between."""

from __future__ import annotations

from collections.abc import Sequence

from cyclopts import CycloptsError

from ncbatch import signals
from ncbatch.cli import process
from ncbatch.cli.app import parse
from ncbatch.cli.console import configure_logging, err, say_error
from ncbatch.cli.messages import Messages
from ncbatch.cli.usage import told
from ncbatch.errors import NcbatchError, StoppedByPolicyError, Terminated
from ncbatch.exit_codes import ExitCode


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command, without `argv` the one of this process; returns its exit code."""
    return process.run(lambda: _main(argv), own=argv is None)


def _main(argv: Sequence[str] | None) -> int:
    try:
        with signals.handled():
            return _execute(argv)
    except KeyboardInterrupt as interrupt:
        ended = isinstance(interrupt, Terminated)
        how = "ended by SIGTERM" if ended else "interrupted"
        say_error(
            f"ncbatch: {how}; nothing that was committed is lost; run the same command again to continue"
        )
        return ExitCode.TERMINATED if ended else ExitCode.INTERRUPTED


def _execute(argv: Sequence[str] | None) -> int:
    messages = Messages()
    try:
        request = parse(argv)
        if request is None:  # help and the version are printed
            return ExitCode.OK
        messages = request.messages
        configure_logging(**vars(messages))
        process.check_working_directory()
        return request.carry_out()
    except CycloptsError as error:
        err.print(told(error))
        return ExitCode.ERROR
    except StoppedByPolicyError as error:
        say_error(f"ncbatch: {error}")
        return ExitCode.STOPPED
    except NcbatchError as error:
        if messages.debug:
            raise
        say_error(f"ncbatch: error: {error}")
        return ExitCode.ERROR
    except ImportError as error:  # such as pyarrow 26 beside numpy 1, which no resolver knows of
        if messages.debug:
            raise
        say_error(
            f"ncbatch: error: {error.__cause__ or error}; the installed packages do not fit together: "
            "install ncbatch again, in an environment of its own"
        )
        return ExitCode.ERROR
