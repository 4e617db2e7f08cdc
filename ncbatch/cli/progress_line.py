"""How far a run is, in one line."""

from __future__ import annotations

from ncbatch.cli.console import err
from ncbatch.driver.progress import Snapshot
from ncbatch.words import counted, duration

_LOGGED_COLUMNS = 71


def progress_line(snapshot: Snapshot, width: int | None = None) -> str:
    """A snapshot in one line.

    Args:
        width: columns. What does not fit is left out, the least important first. By default the terminal's,
            or what is left of 80 columns beside the time of a logged line.
    """
    if width is None:
        width = err.width if err.is_terminal else _LOGGED_COLUMNS
    done, running = snapshot.ok + snapshot.failed, snapshot.state == "running"
    head = f"{done}/{snapshot.images} {snapshot.noun}"
    if not running:
        head = f"{snapshot.state}: {head}"
    if snapshot.fraction is not None and not snapshot.is_over:
        head += f", {int(100 * snapshot.fraction)} %"
    parts = {"count": head}
    if snapshot.failed:
        parts["failed"] = f"{snapshot.failed} failed"
    if snapshot.time_left is not None:
        parts["eta"] = f"ETA {duration(snapshot.time_left)}"
    parts["time"] = f"{counted(snapshot.workers, 'workers')}, {duration(snapshot.elapsed_seconds)}"
    if snapshot.mean_bpp is not None and snapshot.mean_psnr is not None:
        parts["means"] = f"{snapshot.mean_bpp:.3f} bpp, {snapshot.mean_psnr:.2f} dB"
    if snapshot.images_per_second is not None:
        parts["rate"] = f"{snapshot.images_per_second:.2g} {snapshot.noun}/s"
    alone = duration(snapshot.elapsed_seconds)
    for name, rest in (("rate", ""), ("means", ""), ("time", alone), ("time", "")):
        if len(" | ".join(parts.values())) <= width:
            break
        parts.pop(name, None)
        if rest:
            parts[name] = rest
    return " | ".join(parts.values())
