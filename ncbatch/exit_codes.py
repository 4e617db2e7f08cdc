"""What the exit codes of every command mean."""

from __future__ import annotations

import enum
import textwrap


class ExitCode(enum.IntEnum):
    """The exit codes of every command. A command that follows a job passes the job's exit code on."""

    OK = 0
    ERROR = 1
    FAILED = 2
    STOPPED = 3
    CRASHED = 70
    INTERRUPTED = 130
    TERMINATED = 143

    @property
    def meaning(self) -> str:
        """What the code tells a caller, as a clause for `--help` and the docs."""
        return _MEANINGS[self]


_MEANINGS = {
    ExitCode.OK: "everything was done",
    ExitCode.ERROR: "an error, wrong flags and values included; one line on standard error explains it",
    ExitCode.FAILED: "finished, but not for every image: rows failed (encode, evaluate), or files are "
    "missing, damaged or not decodable (verify, decode)",
    ExitCode.STOPPED: "stopped by policy: too many failures, a store that refuses, workers that only die, "
    "time or money that are used up (--max-hours, --max-cost, --max-minutes), or `ncbatch drain`",
    ExitCode.CRASHED: "a library ended the process, after a message of its own; what was committed stands",
    ExitCode.INTERRUPTED: "interrupted by Ctrl-C; run the same command again to continue",
    ExitCode.TERMINATED: "ended by SIGTERM; run the same command again to continue",
}


def table() -> str:
    """The codes with their meanings, one a line, as `ncbatch --help` shows them."""
    lines = (f"{code.value:<4} {code.meaning}" for code in ExitCode)
    return "\n".join(
        textwrap.fill(line, 79, initial_indent="  ", subsequent_indent=" " * 7) for line in lines
    )
