"""What people see: messages, the progress line, tables."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from rich import console

from ncbatch.errors import UsageError
from ncbatch.logs import JsonLines, LogFormat, in_use


class Console(console.Console):
    """Without rich's habit of ending the process when nobody reads any more.

    Of standard output that is an error, which ends a command (see `ncbatch.cli.process`). Messages are
    dropped then: work does not end because nobody listens.
    """

    def on_broken_pipe(self) -> None:
        """Called by rich when nobody reads the stream any more."""
        self.quiet = True
        self.print()  # what could not be written is dropped; otherwise rich writes it before the next result
        if not self.stderr:
            self.quiet = False
            raise BrokenPipeError


out = Console(highlight=False, markup=False, soft_wrap=True)
"""Results go to standard output ..."""

err = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
"""... and everything about how they come about to standard error."""

log = logging.getLogger("ncbatch")

_LINE_SECONDS = 10.0
_NO_TERMINAL = 10_000  # columns
_FILE_ONLY = "ncbatch.shown"
"""Logger of what standard error shows anyway: for the log file."""


def configure_logging(
    *,
    debug: bool = False,
    verbose: bool = False,
    quiet: bool = False,
    log_format: LogFormat = "text",
    log_file: str | None = None,
) -> None:
    """Messages to standard error, and all of them to a log file as well where there is one.

    Raises:
        UsageError: the log file cannot be written.
    """
    # Of compressai's own making, at its import.
    warnings.filterwarnings("ignore", message=".*torch.jit.script.*", category=FutureWarning)
    level = logging.DEBUG if debug or verbose else logging.WARNING if quiet else logging.INFO
    if log_format == "json":
        handler: logging.Handler = logging.StreamHandler()
        handler.setFormatter(JsonLines())
    elif err.is_terminal:
        from rich.logging import RichHandler

        shows = debug or verbose
        handler = RichHandler(console=err, show_path=shows, show_level=shows, markup=False)
        handler.setFormatter(logging.Formatter("%(message)s", datefmt="[%X]"))
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    handler.setLevel(level)
    handler.addFilter(lambda record: record.name != _FILE_ONLY)
    handlers = [handler]
    if log_file is not None:
        try:
            to_file = logging.FileHandler(log_file, encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise UsageError(f"--log-file {log_file} cannot be written: {error.strerror or error}") from error
        text = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
        to_file.setFormatter(JsonLines() if log_format == "json" else text)
        handlers.append(to_file)
    logging.basicConfig(level=logging.WARNING, handlers=handlers, force=True)
    log.setLevel(logging.DEBUG if log_file else level)


def say(message: str) -> None:
    """A line beside the results, on standard error."""
    if in_use() == "json":
        log.warning("%s", message)
    else:
        err.print(message)


def say_error(message: str) -> None:
    """The line a command ends with, on standard error and in the log file."""
    if in_use() == "json":
        log.error("%s", message)
        return
    err.print(message)
    if logging.getLogger().handlers:  # otherwise logging would write to standard error itself
        logging.getLogger(_FILE_ONLY).error(message)


@contextmanager
def progress_display() -> Iterator[Callable[[str, bool], None]]:
    """A live line on a terminal; elsewhere a logged line every ten seconds, and the last one of all.

    The log file gets the logged lines in either case.
    """
    if not (err.is_terminal and _shows_progress() and in_use() == "text"):
        yield _logged_lines(log)
        return
    from rich.live import Live
    from rich.text import Text

    to_file = _logged_lines(logging.getLogger(_FILE_ONLY))
    live = Live(console=err, refresh_per_second=4, transient=False)

    def show(line: str, last: bool) -> None:
        live.start()  # not before there is something to show: a question may be asked first
        live.update(Text(line))
        to_file(line, last)

    try:
        yield show
    finally:
        live.stop()


def _shows_progress() -> bool:
    """Whether `--quiet` was not given."""
    handlers = logging.getLogger().handlers
    return any(h.level <= logging.INFO for h in handlers if not isinstance(h, logging.FileHandler))


def _logged_lines(logger: logging.Logger) -> Callable[[str, bool], None]:
    shown_at: float | None = None

    def show(line: str, last: bool) -> None:
        nonlocal shown_at
        if last or shown_at is None or time.monotonic() - shown_at >= _LINE_SECONDS:
            shown_at = time.monotonic()
            logger.info("%s", line)

    return show


_ESCAPED = {code: repr(chr(code))[1:-1] for code in (*range(32), 127)}
"""Characters that would break a row of a table, or that a terminal would obey, as Python writes them."""


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table on standard output; numbers to the right. Not cut to the terminal when it is a file."""
    from rich.table import Table
    from rich.text import Text

    rows = [list(row) for row in rows]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, name in enumerate(columns):
        numeric = all(isinstance(row[index], int | float | None) for row in rows)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row))
    if out.is_terminal:
        out.print(table, soft_wrap=False)
    else:
        wide = Console(width=_NO_TERMINAL, highlight=False, markup=False)
        wide.print(table, width=max(wide.measure(table).maximum, 1))


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value).translate(_ESCAPED)
