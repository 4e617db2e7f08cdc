"""Objects in a run's folder that nothing refers to: what attempts left behind that died, or that lost a race.

A bitstream of an image that is yet to be encoded is none of them, since the next attempt may adopt it, nor is
the work in progress of a unit that is not committed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ncbatch import layout
from ncbatch.metrics.published import published_keys, published_since, superseded_keys
from ncbatch.plan.generations import plan_keys, planned_units, without_superseded
from ncbatch.plan.progress_log import logged
from ncbatch.plan.spec import read_run
from ncbatch.store import ObjectInfo, Store

log = logging.getLogger(__name__)

KINDS = {
    layout.BITSTREAMS_PREFIX: "bitstreams",
    layout.PACKS_PREFIX: "packs",
    layout.TARS_PREFIX: "tars",
    layout.WIP_PREFIX: "work in progress",
    layout.TRACES_PREFIX: "traces",
    layout.PLAN_PREFIX: "plans",
    layout.PROBE_PREFIX: "probes",
    layout.CHECKING_PREFIX: "checks",
}
"""What may be garbage, by the prefix of its keys. Commits and the table never are."""

SUPERSEDED = "superseded"
"""The kind of bitstreams, packs and tars of earlier generations, in the place of that of their prefix."""


@dataclass(frozen=True)
class Garbage:
    """An object that nothing refers to, or only rows that newer ones replace. kind: one of `KINDS`, or
    SUPERSEDED.
    """

    kind: str
    key: str
    size: int


def find_garbage(output: Store, older_than: float) -> list[Garbage]:
    """What may be deleted of a run's folder.

    Args:
        output: the folder.
        older_than: seconds; what was written since is left alone, as somebody may be about to commit it. An
            object whose age the store does not tell is left alone, too.

    Raises:
        RunError: there is no run. MetricsError: its table is damaged.
    """
    stored = read_run(output)
    latest = time.time() - older_than
    published, committed = published_keys(output)
    superseded = superseded_keys(output)
    planned = planned_units(stored, output)
    pending = [unit for unit in without_superseded(planned) if unit.id not in committed]
    known = _Known(
        published=published - superseded,
        awaited={
            layout.bitstream_stem(unit.variant, image.key, unit.generation, stored.spec.shard_prefix)
            for unit in pending
            for image in unit.images
        },
        pending={unit.id for unit in pending},
        traced={unit.id for unit in planned},
        plans=set(plan_keys(stored, output)),
        checks=frozenset(layout.done_check_of_key(info.key) for info in output.list(layout.CHECKS_PREFIX)),
    )
    found = [
        Garbage(SUPERSEDED if info.key in superseded else kind, info.key, info.size)
        for prefix, kind in KINDS.items()
        for info in _old(logged(output.list(prefix), f"looked at {prefix}"), latest)
        if not known.refers_to(prefix, info.key)
    ]
    if found:  # what was committed in the meantime
        published = published_since(output, committed)
        found = [garbage for garbage in found if garbage.key not in published]
    return found


def _old(infos: Iterable[ObjectInfo], latest: float) -> Iterator[ObjectInfo]:
    return (info for info in infos if info.modified is not None and info.modified <= latest)


@dataclass(frozen=True)
class _Known:
    """What a run refers to.

    Attributes:
        published: keys in rows that no newer ones replace.
        awaited: stems of the bitstreams of images that are yet to be encoded.
        pending: units that are not committed.
        traced: units that have or may get traces.
        plans: keys of plan files.
        checks: the finished ones, of which the findings are all that is left to keep.
    """

    published: set[str]
    awaited: set[str]
    pending: set[str]
    traced: set[str]
    plans: set[str]
    checks: frozenset[str | None]

    def refers_to(self, prefix: str, key: str) -> bool:
        """Whether the object at a key below one of the prefixes is needed, or may be."""
        if prefix == layout.PLAN_PREFIX:
            return key in self.plans
        if prefix == layout.PROBE_PREFIX:
            return False
        if prefix == layout.CHECKING_PREFIX:
            return layout.check_in_key(key) not in self.checks
        if key in self.published:
            return True
        if prefix == layout.BITSTREAMS_PREFIX:
            return layout.stem_of_bitstream(key) in self.awaited
        unit = layout.unit_in_key(key)
        if unit is None:
            return True  # nothing of ours
        return unit in (self.traced if prefix == layout.TRACES_PREFIX else self.pending)
