"""What the same command would do of a run that stands. Nothing is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ncbatch.plan.changes import Again, look_again
from ncbatch.plan.commits import Commits
from ncbatch.plan.contents import Contents
from ncbatch.plan.generations import Wanted, planned_units, without_superseded
from ncbatch.plan.retry import Retry
from ncbatch.plan.spec import RunFile
from ncbatch.plan.units import PlannedImage
from ncbatch.store import Store


@dataclass(frozen=True)
class Outlook:
    """What is left of a run. An encoding is an image under a variant.

    Attributes:
        encodings: that the run would have when all is done.
        done: of them, those with a row that stays.
        pending: planned, and not committed.
        superseded: planned and not committed either, and never done, since a later generation has the image
            again.
        failed: failed rows that stay, by error class.
        again: what would be planned beside.
        wanted: all that would be encoded, by variant.
    """

    encodings: int
    done: int
    pending: int
    superseded: int
    failed: dict[str, int]
    again: Again
    wanted: Wanted

    @property
    def retried(self) -> int:
        """Failed rows that would be tried again."""
        return sum(map(len, self.again.retried.values()))


def outlook(
    stored: RunFile, listed: Sequence[PlannedImage], corpus: Store, output: Store, retry: Retry | None
) -> Outlook:
    """Compares what stands with what is listed.

    Args:
        stored: the run.
        listed: its inputs as they are now.
        corpus: where they are.
        output: of the run.
        retry: which failed rows are tried again; None: none.
    """
    commits = Commits(output)
    variants = [variant.name for variant in stored.spec.variants]
    planned = planned_units(stored, output)
    failed = commits.failed_rows()
    tried = [row for row in failed if retry and (not retry.classes or row.error_class in retry.classes)]
    contents = Contents(corpus, output, keep=False)
    again = look_again(planned, listed, commits, len(variants), contents, tried)
    new = again.wanted(variants)
    fresh = {(variant, image.key) for variant, images in new.items() for image in images}

    units = without_superseded(planned)
    wanted = {variant: list(images) for variant, images in new.items()}
    for unit in units:
        if unit.id not in commits.units:
            left = [image for image in unit.images if (unit.variant, image.key) not in fresh]
            wanted[unit.variant] += left
    identities = {(unit.variant, image.key) for unit in units for image in unit.images}
    waiting = sum(len(unit.images) for unit in planned if unit.id not in commits.units)
    to_do = sum(map(len, wanted.values()))
    pending = to_do - len(fresh)
    due = {(variant, image.key) for variant, images in wanted.items() for image in images}
    stay = (row for row in failed if (row.variant, row.image_key) not in due)
    encodings = len(identities | fresh)
    return Outlook(
        encodings=encodings,
        done=encodings - to_do,
        pending=pending,
        superseded=waiting - pending,
        failed=dict(Counter(row.error_class or "" for row in stay).most_common()),
        again=again,
        wanted=wanted,
    )
