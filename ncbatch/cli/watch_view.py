"""What `ncbatch watch` shows in a terminal, and in the place of one: a screen that is kept up to date, or
lines.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ncbatch.cli.console import Console, out
from ncbatch.cli.progress_line import progress_line
from ncbatch.cli.status import cost_words
from ncbatch.words import counted, duration, size

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ncbatch.driver.look import Look
    from ncbatch.driver.progress import Snapshot

Show = Callable[["Look", str], None]
"""Shows a look, and what is wrong with the store, if anything is."""

_LINE_SECONDS = 10.0
_LINE_COLUMNS = 160
_ROWS_BESIDE = 14
"""Rows of the screen that are not for units in flight."""
_SHOWN_CLASSES = 5
_COLOURS = {"running": "green", "finished": "green", "lost": "red", "stopped": "red"}


@contextmanager
def display(run: str, price_per_hour: float | None) -> Iterator[Show]:
    """A screen on a terminal; elsewhere a line where something has changed.

    Args:
        run: its URI.
        price_per_hour: of a device; None leaves the cost out.
    """
    if not out.is_terminal:
        yield _lines()
        return
    from rich.live import Live

    wrapping = Console(highlight=False, markup=False)  # `out` cuts lines that are too long for a screen
    with Live(console=wrapping, refresh_per_second=4, screen=False, transient=False) as live:

        def show(found: Look, trouble: str) -> None:
            live.update(
                screen(found, run, price_per_hour, trouble, max(out.height - _ROWS_BESIDE, 3)), refresh=True
            )

        yield show


def line(found: Look) -> str:
    """A look in one line."""
    snapshot = found.snapshot
    if snapshot is None or (not snapshot.images and found.told.state != "finished"):
        return f"{found.told.state}: {found.told.explanation}"
    text = progress_line(snapshot, _LINE_COLUMNS)
    if found.told.state != snapshot.state or (snapshot.is_over and found.told.explanation):
        text += f" | {found.told.state}: {found.told.explanation}"
    return text


def _lines() -> Show:
    shown, shown_at, state = "", 0.0, ""

    def show(found: Look, trouble: str) -> None:
        nonlocal shown, shown_at, state
        text = trouble or line(found)
        now = time.monotonic()
        urgent = found.is_over or found.told.state != state or bool(trouble)
        if text != shown and (urgent or now - shown_at >= _LINE_SECONDS):
            shown, shown_at, state = text, now, found.told.state
            out.print(text)

    return show


def screen(found: Look, run: str, price: float | None, trouble: str, rows: int) -> RenderableType:
    """All that is known of a run.

    Args:
        found: the look that is shown.
        run: its URI.
        price: of a device per hour, if known.
        trouble: what is wrong with the store, or nothing.
        rows: of units in flight that there is room for.
    """
    from rich.console import Group
    from rich.text import Text

    told, snapshot = found.told, found.snapshot
    colour = _COLOURS.get(told.state, "yellow")
    head = Text.assemble((run, "bold"), "  ", (told.state, f"bold {colour}"))
    if told.explanation:
        head.append(f": {told.explanation}")
    parts: list[RenderableType] = [head]
    if snapshot is not None and snapshot.images:
        parts += [_bar(snapshot), Text(_numbers(snapshot))]
        if price is not None:
            parts.append(Text(cost_words(snapshot, price)))
        if snapshot.in_flight and not snapshot.is_over:
            parts.append(_flights(snapshot, found.age_seconds, rows))
        parts += [Text(text, style="yellow") for text in troubles(snapshot)]
    if trouble:
        parts.append(Text(trouble, style="red"))
    elif not found.is_over:
        since = f"the driver's last word is {duration(found.age_seconds)} old; " if snapshot else ""
        parts.append(Text(f"{since}Ctrl-C ends the view, not the run", style="dim"))
    return Group(*parts)


def _bar(snapshot: Snapshot) -> RenderableType:
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    done = snapshot.ok + snapshot.failed
    share = snapshot.fraction if snapshot.fraction is not None else done / max(snapshot.images, 1)
    grid = Table.grid(padding=(0, 1), expand=True)
    grid.add_column(ratio=1)
    grid.add_column(justify="right", no_wrap=True)
    grid.add_row(ProgressBar(total=1.0, completed=share), f"{int(100 * share)} %")
    return grid


def _numbers(snapshot: Snapshot) -> str:
    done = f"{snapshot.ok + snapshot.failed:,} of {snapshot.images:,} {snapshot.noun}"
    parts = [done, f"{snapshot.failed:,} failed"]
    if not snapshot.is_over:
        parts.append(f"{snapshot.images_in_flight:,} in flight")
        parts.append(f"{snapshot.busy_workers} of {counted(snapshot.workers, 'workers')} busy")
    if snapshot.images_per_second is not None:
        parts.append(f"{snapshot.images_per_second:.3g} {snapshot.noun}/s")
    if snapshot.time_left is not None:
        parts.append(f"ETA {duration(snapshot.time_left)}")
    parts.append(f"at work for {duration(snapshot.elapsed_seconds)}")
    if snapshot.mean_bpp is not None and snapshot.mean_psnr is not None:
        parts.append(f"{snapshot.mean_bpp:.3f} bpp, {snapshot.mean_psnr:.2f} dB")
    before = sum(variant.image_bytes for variant in snapshot.variants)
    if before:
        parts.append(f"{size(before)} became {size(sum(v.bitstream_bytes for v in snapshot.variants))}")
    return " | ".join(parts)


def _flights(snapshot: Snapshot, age: float, rows: int) -> RenderableType:
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", expand=True)
    table.add_column("worker", no_wrap=True, ratio=3)
    table.add_column("unit", no_wrap=True, ratio=2)
    table.add_column(snapshot.noun, justify="right", no_wrap=True)
    table.add_column("done", ratio=2, min_width=10)
    table.add_column("for", justify="right", no_wrap=True)
    shown = snapshot.in_flight[:rows]
    for unit in shown:
        done = unit.fraction
        share = Text("begun") if done is None else ProgressBar(total=1.0, completed=done)
        table.add_row(
            Text(unit.worker), Text(unit.unit), str(unit.images), share, duration(unit.seconds + age)
        )
    more = snapshot.busy_workers - len(shown)
    if more > 0:
        table.add_row(f"... and {more:,} more", "", "", "", "")
    return table


def troubles(snapshot: Snapshot) -> Iterator[str]:
    """What went wrong, in lines."""
    if snapshot.failed:
        shown = list(snapshot.failures.items())[:_SHOWN_CLASSES]
        others = snapshot.failed - sum(count for _, count in shown)
        kinds = [f"{count:,} {name}" for name, count in shown]
        if others > 0:
            kinds.append(counted(others, "others") if kinds else f"{others:,} before this command")
        yield f"failed: {', '.join(kinds)}; `ncbatch failures` says why, and what can be done"
    if not snapshot.is_over:
        for kept in snapshot.quarantined:
            after = counted(kept.failures, "failures")
            yield f"kept from work: {kept.name}, after {after} (last: {kept.reason})"
