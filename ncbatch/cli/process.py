"""The edges of a process: its streams, its working directory, and an exit code that is ours.

A library may end the process it is in. oneMKL does so with exit code 2 where it finds its files no longer,
which here means "finished, some rows failed". So an exit that is not made here has a code of its own.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import io
import os
import select
import sys
from collections.abc import Callable

from ncbatch.errors import Terminated, UsageError
from ncbatch.exit_codes import ExitCode


def run(command: Callable[[], int], *, own: bool) -> int:
    """Runs a command and returns its exit code.

    A reader of standard output that has gone is no error: it has seen enough.

    Args:
        own: whether the process is this command's alone, and ends with it.
    """
    verdict = _Verdict() if own else None
    _open_closed_streams()
    escape_what_cannot_be_shown()
    try:
        code = _until_nobody_reads(command)
    except KeyboardInterrupt as interrupt:
        if verdict:
            ended = isinstance(interrupt, Terminated)
            verdict.code = ExitCode.TERMINATED if ended else ExitCode.INTERRUPTED
        raise
    if verdict:
        verdict.code = code
    return code


def check_working_directory() -> None:
    """Raises UsageError where it has been deleted: paths mean nothing then, and libraries end at it."""
    try:
        os.getcwd()  # noqa: PTH109 - Path.cwd() is the same
    except OSError as error:
        raise UsageError(
            f"the working directory is gone ({error.strerror}); change to one that exists, as by `cd ~`, and "
            "run the same command again"
        ) from error


def _open_closed_streams() -> None:
    """Whoever closed a stream (`>&-`) wants to hear nothing; Python has None in its place then."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, PTH123 - to the end of the process


def escape_what_cannot_be_shown() -> None:
    """Makes streams write `\\xe9` where their encoding has no `é`, in the place of an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _until_nobody_reads(command: Callable[[], int]) -> int:
    code: int = ExitCode.OK
    try:
        try:
            code = command()
        except SystemExit as end:  # how a library ends a command
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        sys.stdout.flush()
    except BrokenPipeError:
        if not _nobody_reads():
            raise  # of another pipe: not for this to be called a success
        # What is still in the buffer would be an error once more when the interpreter flushes it.
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)
    return code


def _nobody_reads() -> bool:
    """Whether standard output is a pipe that has been closed at its other end."""
    watch = select.poll()
    watch.register(sys.stdout.fileno(), 0)  # errors are told without being asked for
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in watch.poll(0))


class _Verdict:
    """The exit code of this process, however it ends; `ExitCode.CRASHED` where a library calls `exit()`.

    code: what is exited with once the interpreter has called whoever wants to be called at exit. By
    `os._exit`, so that no library's destructor can crash what has ended well.
    """

    def __init__(self) -> None:
        self.code: int = ExitCode.ERROR  # an exception that nobody caught
        atexit.register(self._leave)  # the first to register is the last to be called
        libc = ctypes.CDLL(None)
        with contextlib.suppress(AttributeError):  # a C library without it
            register = getattr(libc, "__cxa_atexit")
            register(ctypes.cast(libc._exit, ctypes.c_void_p), ctypes.c_void_p(ExitCode.CRASHED), None)

    def _leave(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or nobody reads
                stream.flush()
        os._exit(self.code)
