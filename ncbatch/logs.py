"""Log lines for programs: one JSON object each, which says what the process is at."""

from __future__ import annotations

import functools
import json
import logging
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from typing_extensions import override

LogFormat = Literal["text", "json"]

FIELDS = ("run", "unit", "attempt")
"""What a line may be about, beside its message: the run's URI, a unit of it, one execution of that."""

_about: dict[str, str] = {}
"""Of this process, and not of a thread: a worker has one call at a time, which several threads may serve."""


@contextmanager
def about(**fields: str) -> Iterator[None]:
    """Within the block, lines of this process say that they are about these `FIELDS`."""
    before = dict(_about)
    _about.update(fields)
    try:
        yield
    finally:
        _about.clear()
        _about.update(before)


class JsonLines(logging.Formatter):
    """A record as one JSON object: time (UTC, ISO 8601), level, logger, message, `FIELDS`, traceback.

    A record's own fields (`extra=` of the call) come before those of the process.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record, without its end."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        own = {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}
        line |= {name: value for name, value in (_about | own).items() if name in FIELDS}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class AboutLines(logging.Formatter):
    """Lines of a worker's log for people, each with the attempt that it is about, by which a failed row's
    lines are found.
    """

    @override
    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line of a record, without its traceback."""
        line = super().formatMessage(record)
        return f"{line} (attempt {_about['attempt']})" if "attempt" in _about else line


WORKER_LOGS = "/tmp/ray/session_*/logs/worker-*.err"
"""Where the workers' logs are on each host, unless Ray was told to use another folder than /tmp/ray."""

LOST_WORKER_LOGS = WORKER_LOGS.replace("*.err", "*-PROCESS.err")
"""That of a worker that was lost, of which a failed row names the process."""


def lines_of(attempt: str, log: str | None = None) -> str:
    """The command that finds the lines about an attempt, on the host where that was.

    Args:
        attempt: an execution of a unit.
        log: path of the worker's log there; None: it is not known.
    """
    return f"grep -wF {shlex.quote(attempt)} {WORKER_LOGS if log is None else shlex.quote(log)}"


_STANDARD_ERROR = 2


@functools.cache
def own_log() -> str | None:
    """The file that this process's messages go to, as those of Ray's workers do; None where that is none."""
    link = Path(f"/proc/self/fd/{_STANDARD_ERROR}")
    try:
        path = link.readlink()
        str(path).encode()  # what is no text would fit into no table
        return str(path) if path.is_file() and path.samefile(link) else None
    except (OSError, UnicodeEncodeError):  # it has been deleted, or there is no /proc
        return None


def in_use() -> LogFormat:
    """How this process writes its lines, for processes that are started for it."""
    handlers = logging.getLogger().handlers
    return "json" if any(isinstance(handler.formatter, JsonLines) for handler in handlers) else "text"
