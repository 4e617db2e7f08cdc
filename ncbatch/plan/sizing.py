"""How large units are, for a run as for its dry run."""

from __future__ import annotations

import heapq
import os

from ncbatch.plan.units import Unit

_UNITS_PER_WORKER = 4  # at least, so that workers finish together and little is lost with one
_PACK_PIXELS = 64_000_000  # a worker holds all images of a pack; and damage loses those packed before it


def pixels_per_unit(
    pixels: int, seconds_per_pixel: float, unit_seconds: float, workers: int, *, packs: bool
) -> int:
    """Pixels that make a unit of a variant.

    Args:
        pixels: of all images. seconds_per_pixel: of encoding, on a worker.
        unit_seconds: how long a unit should take; where there is little work it is shared among the workers.
        packs: whether units become packs.
    """
    wanted = min(unit_seconds / seconds_per_pixel, pixels / (_UNITS_PER_WORKER * workers))
    if packs:
        wanted = min(wanted, _PACK_PIXELS)
    return max(int(wanted), 1)


def local_workers(workers: int | None, cpus: float, gpus: float | None, gpu_count: int) -> int:
    """How many workers a local Ray would start here, as `Pool.room` counts them on a cluster."""
    if workers is not None:
        return workers
    each = (1.0 if gpu_count else 0.0) if gpus is None else gpus
    fits = [int((os.cpu_count() or 1) // cpus)] if cpus else []
    fits += [int(gpu_count // each)] if each else []
    return max(min(fits, default=1), 1)


def wall_seconds(units: list[Unit], seconds_per_pixel: dict[str, float], workers: int) -> float:
    """How long workers take for units, the longest ones first, as the driver deals them out."""
    ends = [0.0] * workers
    for seconds in sorted((u.pixels * seconds_per_pixel[u.variant] for u in units), reverse=True):
        heapq.heapreplace(ends, ends[0] + seconds)
    return max(ends)
