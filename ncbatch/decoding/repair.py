"""Repair of a run: what a verification found damaged is planned again, and lost checkpoints are put back."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ncbatch import layout
from ncbatch.codec.errors import ModelError
from ncbatch.metrics.parallel import in_parallel
from ncbatch.models.loading import kept_model, load_model
from ncbatch.plan.contents import Contents, Relisted
from ncbatch.plan.generations import (
    StandingRow,
    Wanted,
    extend,
    newest_planned,
    not_yet_again,
    planned_units,
    usual_unit_pixels,
)
from ncbatch.plan.inputs import Inputs
from ncbatch.plan.spec import RunSpec, read_run
from ncbatch.plan.units import Unit
from ncbatch.store import Store, StoreError, StoreOptions

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LostImage:
    """A damaged row that encoding again cannot restore, and what can be done about it."""

    image_key: str
    variant: str
    why: str


@dataclass(frozen=True)
class Repair:
    """What becomes of damaged rows.

    Attributes:
        planned: how many the next `encode` encodes again.
        losses: those that cannot be restored.
    """

    planned: int
    losses: tuple[LostImage, ...]


def restore_models(output: Store, spec: RunSpec, options: StoreOptions) -> None:
    """Puts back checkpoints of a run that are missing or damaged, where their originals are still there.

    A checkpoint that cannot be put back is left as it is, for a verification to report.
    """
    for digest, name in spec.models.items():
        try:
            kept_model(output, digest)
            continue
        except ModelError as error:
            problem = error
        try:
            original = load_model(name, options)
        except (ModelError, StoreError) as error:
            log.warning("%s; it cannot be put back from %s: %s", problem, name, error)
            continue
        if original.digest != digest:
            log.warning("%s; it cannot be put back: %s is another model now", problem, name)
            continue
        key = layout.model_key(original.digest)
        output.put(key, original.to_bytes())
        log.info("put back %s%s from %s", output.uri, key, name)


def planned_already(output: Store, damaged: Sequence[StandingRow]) -> int:
    """How many of some damaged rows are planned again already, by a generation after their own."""
    due = not_yet_again(planned_units(read_run(output), output), damaged)
    return len(damaged) - sum(map(len, due.values()))


def plan_repair(output: Store, corpus: Store, damaged: Sequence[StandingRow]) -> Repair:
    """Plans damaged rows again, as a generation that the next `encode` of the run does.

    Rows that a later generation plans already are left to it, so any number of repairs may go on at once.
    Inputs that are gone or have changed are not planned: encoding them would not give back what was lost.
    """
    stored = read_run(output)
    units = planned_units(stored, output)
    newest = newest_planned(units, {(row.variant, row.image_key) for row in damaged})
    due = [row for row in damaged if (row.variant, row.image_key) in newest]
    planned = [newest[row.variant, row.image_key][1] for row in due]
    now = list(in_parallel(Inputs(corpus).head, planned))
    same = Contents(corpus, output).same(
        [
            Relisted(image, replace(image, etag=info.etag))
            for image, info in zip(planned, now, strict=True)
            if info is not None and info.size == image.bytes and info.etag != image.etag
        ]
    )
    restorable, losses, etags = [], [], dict[str, str]()
    for row, image, info in zip(due, planned, now, strict=True):
        if info is not None and (info.etag == image.etag or image.key in same):
            restorable.append(row)
            etags[image.key] = info.etag
        elif info is None:
            losses.append(
                LostImage(row.image_key, row.variant, "its input is gone from the corpus; put it back")
            )
        else:
            why = "its input has changed; the same encode command takes the new version"
            losses.append(LostImage(row.image_key, row.variant, why))

    def wanted(units: Sequence[Unit]) -> Wanted:
        again = not_yet_again(units, restorable)
        return {
            variant: [replace(image, etag=etags[image.key]) for image in images]
            for variant, images in again.items()
        }

    extend(stored, output, wanted, usual_unit_pixels(units))
    return Repair(len(restorable), tuple(losses))
