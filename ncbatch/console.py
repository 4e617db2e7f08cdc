"""What people see: messages, the progress line, tables."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.logging import RichHandler
from rich.table import Table
from rich.text import Text

from ncbatch.runs.progress import Snapshot

out = Console(highlight=False, markup=False, soft_wrap=True)
"""Results go to standard output ..."""

err = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
"""... and everything about how they come about to standard error."""

log = logging.getLogger("ncbatch")

_LINE_SECONDS = 10.0
_NO_TERMINAL = 10_000  # columns


def configure_logging(*, debug: bool) -> None:
    # Of compressai's own making, at its import.
    warnings.filterwarnings("ignore", message=".*torch.jit.script.*", category=FutureWarning)
    if err.is_terminal:
        handler: logging.Handler = RichHandler(console=err, show_path=debug, show_level=debug, markup=False)
        handler.setFormatter(logging.Formatter("%(message)s", datefmt="[%X]"))
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    log.setLevel(logging.DEBUG if debug else logging.INFO)


def duration(seconds: float) -> str:
    """Seconds in words a person reads at a glance."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"


def size(count: float) -> str:
    """Bytes with a decimal prefix."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"


def progress_line(snapshot: Snapshot) -> str:
    """A snapshot in one line."""
    done = snapshot.ok + snapshot.failed
    parts = [f"{snapshot.state}: {done}/{snapshot.images} images"]
    parts.append(f"{snapshot.failed} failed, {snapshot.pending} pending")
    if snapshot.mean_bpp is not None and snapshot.mean_psnr is not None:
        parts.append(f"{snapshot.mean_bpp:.3f} bpp, {snapshot.mean_psnr:.2f} dB")
    if snapshot.images_per_second is not None:
        parts.append(f"{snapshot.images_per_second:.2g} images/s")
    if snapshot.pending and snapshot.eta_seconds is not None:
        parts.append(f"ETA {duration(snapshot.eta_seconds)}")
    parts.append(f"{snapshot.workers} workers, {duration(snapshot.elapsed_seconds)}")
    return " | ".join(parts)


@contextmanager
def progress_display() -> Iterator[Callable[[str, bool], None]]:
    """A live line on a terminal; elsewhere a logged line every ten seconds, and the last one of all."""
    if err.is_terminal:
        with Live(console=err, refresh_per_second=4, transient=False) as live:
            yield lambda line, last: live.update(Text(line))
        return
    shown_at = 0.0

    def show(line: str, last: bool) -> None:
        nonlocal shown_at
        if last or time.monotonic() - shown_at >= _LINE_SECONDS:
            shown_at = time.monotonic()
            log.info("%s", line)

    yield show


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table on standard output; numbers to the right. Not cut to the terminal when it is a file."""
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
    return f"{value:.4g}" if isinstance(value, float) else str(value)
