"""What a later generation of a plan is for: new and changed inputs, and failed rows to be tried again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ncbatch.plan.commits import Commits
from ncbatch.plan.comparison import differences
from ncbatch.plan.contents import Contents, Relisted
from ncbatch.plan.generations import StandingRow, Wanted, not_yet_again
from ncbatch.plan.place import tells_bytes
from ncbatch.plan.units import PlannedImage, Unit

log = logging.getLogger(__name__)

MAY_CHANGE = 0.05
"""The share of a run's encodings that may be made again without being asked for."""
MAY_CHANGE_AT_LEAST = 20
"""So many may be in any case: of ten images one is a tenth, and replacing it is no accident."""


@dataclass(frozen=True)
class Changes:
    """What a listing says of the inputs that a plan knows.

    Attributes:
        due: those that are new or changed, in the listing's order.
        new: how many of them no plan knows.
        known: how many inputs the plan knows.
        same: inputs with another etag than they are planned with and the same bytes, by key.
    """

    due: list[PlannedImage]
    new: int
    known: int
    same: dict[str, PlannedImage] = field(default_factory=dict)

    @property
    def changed(self) -> int:
        """How many inputs are others than when they were planned."""
        return len(self.due) - self.new


def changes(
    planned: Sequence[Unit], listed: Sequence[PlannedImage], contents: Contents | None = None
) -> Changes:
    """Compares a listing with a plan.

    Args:
        planned: all units.
        listed: the inputs as they are now.
        contents: compares bytes where only the etags differ; without it, another etag is another input.
    """
    found, count = differences(planned, listed)
    due = [image for image, _ in found]
    new = sum(known is None for _, known in found)
    relisted = [
        Relisted(known, image)
        for image, known in found
        if known is not None and (known.bytes == image.bytes or not tells_bytes(image.place))
    ]
    same = contents.same(relisted) if contents is not None else frozenset[str]()
    if not same:
        return Changes(due, new, count)
    return Changes(
        [image for image in due if image.key not in same],
        new,
        count,
        {each.listed.key: each.listed for each in relisted if each.listed.key in same},
    )


@dataclass(frozen=True)
class Again:
    """What there is to be planned of a run that stands.

    Attributes:
        changes: of its inputs.
        retried: failed rows that are tried again, by variant.
        unfinished: of the inputs that have another etag and the same bytes, those that a variant has yet to
            encode: a worker takes nothing under an etag that is not the planned one.
        gone: how many failed rows cannot be, since their inputs are no longer there.
        repeated: how many encodings would be made once more because their inputs changed.
        encodings: how many the run has.
    """

    changes: Changes
    retried: dict[str, list[PlannedImage]]
    unfinished: dict[str, list[PlannedImage]]
    gone: int
    repeated: int
    encodings: int

    @property
    def is_much(self) -> bool:
        """Whether so much is made once more that it may be a mistake."""
        return self.repeated > max(MAY_CHANGE * self.encodings, MAY_CHANGE_AT_LEAST)

    def wanted(self, variants: Iterable[str]) -> Wanted:
        """The images of the generation, by variant."""
        return {
            name: [*self.changes.due, *self.unfinished.get(name, []), *self.retried.get(name, [])]
            for name in variants
        }


Consent = Callable[[Again], None]
"""Called before much is encoded once more that nobody asked for; raises where that is not wanted."""


def look_again(
    units: Sequence[Unit],
    listed: Sequence[PlannedImage],
    commits: Commits,
    variants: int,
    contents: Contents | None,
    failed: Sequence[StandingRow],
) -> Again:
    """What is to be planned of a run.

    Args:
        units: all that are planned.
        listed: the inputs as they are now.
        commits: of the run.
        variants: how many the run has.
        contents: as of `changes`.
        failed: the rows that are to be tried again; those that are planned again already are left to that.
    """
    found = changes(units, listed, contents)
    due = not_yet_again(units, failed)
    keys = {image.key for images in due.values() for image in images}
    now = {image.key: image for image in listed if image.key in keys} if keys else {}
    retried = {
        variant: [
            now[image.key]  # as it is listed now: a worker looks whether it has that etag
            for image in images
            if image.key in now and (now[image.key].etag == image.etag or image.key in found.same)
        ]
        for variant, images in due.items()
    }
    gone = sum(image.key not in now for images in due.values() for image in images)
    unfinished = _unfinished(units, found.same, commits)
    for variant, images in unfinished.items():
        taken = {image.key for image in images}
        retried[variant] = [image for image in retried.get(variant, []) if image.key not in taken]
    repeated = _repeated(units, found, commits)
    return Again(found, retried, unfinished, gone, repeated, found.known * variants)


def _repeated(units: Sequence[Unit], found: Changes, commits: Commits) -> int:
    """How many encodings that stand are made once more because their inputs changed.

    An image that failed has none: whoever replaces its file wants it to be done.
    """
    if not found.changed:
        return 0
    keys = {image.key for image in found.due}
    committed = (unit for unit in units if unit.id in commits.units)
    rows = {(unit.variant, i.key) for unit in committed for i in unit.images if i.key in keys}
    return len(rows - {(row.variant, row.image_key) for row in commits.failed_rows()})


def _unfinished(
    units: Sequence[Unit], same: Mapping[str, PlannedImage], commits: Commits
) -> dict[str, list[PlannedImage]]:
    if not same:
        return {}
    newest: dict[tuple[str, str], tuple[int, str, bool]] = {}
    for unit in units:
        for image in unit.images:
            identity = unit.variant, image.key
            if image.key in same and unit.generation >= newest.get(identity, (0, "", False))[0]:
                newest[identity] = unit.generation, image.etag, unit.id in commits.units
    found: dict[str, list[PlannedImage]] = {}
    mistaken = {
        (row.variant, row.image_key): row.generation
        for row in commits.failed_rows(frozenset({"changed"}))
        if row.image_key in same
    }
    for (variant, key), (generation, etag, committed) in newest.items():
        failed = mistaken.get((variant, key)) == generation
        if etag != same[key].etag and (failed or not committed):
            found.setdefault(variant, []).append(same[key])
    return found
