"""Which objects make up a run's table at this moment.

Every row stands in the commit of its unit, which is never changed or deleted. Beside that, an object below
`recent/` merges some tens of commits and one below `metrics/` some thousands, so that a reader opens few. A
unit that a part holds is read from there, one that none holds from its commit. So nothing is lost or doubled
whenever a compaction is killed, and whatever several of them do at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from ncbatch import layout
from ncbatch.metrics.parallel import in_parallel
from ncbatch.metrics.parts import SUMMED_FROM, UnitSums, read_sums, sums_of_unit
from ncbatch.metrics.unit_commits import list_units, read_units
from ncbatch.store import ObjectInfo, ObjectNotFound, Store

Versions = Literal["one", "newer", "any"]
"""How many rows an image may have under a variant: one; several, each of another generation; or any number,
where several plans of one generation may be there, since the store ignores create-only puts."""


@dataclass(frozen=True)
class Part:
    """An object that holds rows of several units.

    Attributes:
        sums: what the rows of each of its units add up to.
    """

    info: ObjectInfo
    sums: list[UnitSums]

    @cached_property
    def units(self) -> frozenset[str]:
        """The units whose rows it holds."""
        return frozenset(unit for unit, _, _ in self.sums)


@dataclass(frozen=True)
class TableObjects:
    """The objects that make up a table; together they hold each committed unit once.

    Attributes:
        parts: below `metrics/`, in the order of their numbers; `recent`: below `recent/`.
        superseded: keys below `recent/` of what later parts hold, too.
        loose: the units that no part holds, in order.
        overlapping: whether parts hold units twice, as they may where the store ignores create-only puts.
        versions: how many rows an image may have under a variant.
    """

    parts: tuple[Part, ...]
    recent: tuple[Part, ...]
    superseded: tuple[str, ...]
    loose: tuple[str, ...]
    overlapping: bool
    versions: Versions = "any"

    @cached_property
    def covered(self) -> frozenset[str]:
        """The units that a part holds."""
        return frozenset().union(*(part.units for part in (*self.parts, *self.recent)))

    @cached_property
    def units(self) -> frozenset[str]:
        """All committed units."""
        return self.covered | set(self.loose)

    def sums(self, store: Store) -> Iterator[UnitSums]:
        """What the rows of each committed unit add up to."""
        seen: set[str] = set()
        for part in (*self.parts, *self.recent):
            yield from (found for found in part.sums if found[0] not in seen)
            if self.overlapping:
                seen |= part.units
        yield from map(sums_of_unit, read_units(store, self.loose, SUMMED_FROM))


def find_parts(store: Store, *, recent: bool = True) -> TableObjects:
    """The parts that stand there, without looking for units that none holds.

    Args:
        store: the run's folder.
        recent: whether those below `recent/` count, which are not there for ever.
    """
    parts = tuple(_read(store, layout.METRICS_PREFIX, layout.number_of_part))
    covered: set[str] = set()
    overlapping = False
    for part in parts:
        overlapping |= not covered.isdisjoint(part.units)
        covered |= part.units
    current, superseded = [], []
    for part in _read(store, layout.RECENT_PREFIX, layout.number_of_recent) if recent else ():
        if covered.isdisjoint(part.units):
            current.append(part)
            covered |= part.units
        else:  # what else it holds, if anything, is read from the commits
            superseded.append(part.info.key)
    return TableObjects(parts, tuple(current), tuple(superseded), (), overlapping)


def find_objects(store: Store, *, recent: bool = True, exclusive: bool | None = None) -> TableObjects:
    """The objects that make up the table now.

    Args:
        store: the run's folder.
        recent: as of `find_parts`.
        exclusive: whether the store honours create-only puts, so that there is one plan of each generation;
            None: `run.json` tells.

    Raises:
        MetricsError: a part is damaged.
    """
    # In this order: a part that goes meanwhile has its units among the commits, which are listed last.
    found = find_parts(store, recent=recent)
    loose = tuple(unit for unit in list_units(store) if unit not in found.covered)
    # After the commits: a generation is there before any of its units.
    versions = "any" if found.overlapping else _versions(store, exclusive)
    return replace(found, loose=loose, versions=versions)


def _versions(store: Store, exclusive: bool | None) -> Versions:
    if exclusive is None:
        try:
            exclusive = bool(json.loads(store.get(layout.RUN))["spec"].get("create_only", True))
        except (ObjectNotFound, ValueError, KeyError, TypeError, AttributeError):
            return "any"  # no run that is known here
    if not exclusive:
        return "any"
    return "newer" if next(iter(store.list(layout.GENERATIONS_PREFIX)), None) is not None else "one"


def _read(store: Store, prefix: str, number_of: Callable[[str], int | None]) -> Iterator[Part]:
    """The parts below a prefix, without those that go meanwhile."""

    def read(info: ObjectInfo) -> Part | None:
        try:
            return Part(info, read_sums(store, info))
        except ObjectNotFound:
            return None

    infos = [info for info in store.list(prefix) if number_of(info.key) is not None]
    yield from (part for part in in_parallel(read, infos) if part is not None)
