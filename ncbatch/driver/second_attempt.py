"""Failed rows that may have been a matter of the moment or of the machine, tried once more at a run's end.

They become a generation of the plan which says that nobody asked for it, so what fails in it again stays
failed: in this session, in the next one, and whatever drivers die in between.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ncbatch.metrics.failures import TRANSIENT
from ncbatch.plan.commits import Commits
from ncbatch.plan.corpus import Listing
from ncbatch.plan.generations import (
    PixelsPerUnit,
    Wanted,
    automatic_generations,
    extend,
    not_yet_again,
    without_superseded,
)
from ncbatch.plan.run import Run
from ncbatch.plan.spec import read_run
from ncbatch.plan.units import Unit
from ncbatch.store import Store
from ncbatch.words import counted

log = logging.getLogger(__name__)


def second_attempt(
    listing: Listing, output: Store, commits: Commits, pixels_per_unit: PixelsPerUnit
) -> Run | None:
    """Plans a second attempt at the failed rows that are worth one.

    Args:
        listing: the inputs; those that were not there are not asked for again.
        commits: of the run, which is finished.

    Returns:
        the run with what is pending now, or None where nothing is.
    """
    failed = commits.failed_rows(TRANSIENT)
    if not failed:
        return None
    automatic = automatic_generations(output)
    rows = [row for row in failed if row.generation not in automatic]
    listed = {image.key: image.etag for image in listing.images}

    def wanted(units: Sequence[Unit]) -> Wanted:
        due = not_yet_again(units, rows)
        return {
            variant: [image for image in images if listed.get(image.key) == image.etag]
            for variant, images in due.items()
        }

    stored = read_run(output)
    units = extend(stored, output, wanted, pixels_per_unit, automatic=True)
    run = Run(stored.spec, tuple(without_superseded(units)), commits.units)
    if not run.pending:
        return None
    encodings = sum(len(unit.images) for unit in run.pending)
    log.info("%s failed in a way that may be over; trying once more", counted(encodings, "images"))
    return run
