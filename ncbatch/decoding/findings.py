"""What verifying or decoding a run finds out about one of its rows."""

from __future__ import annotations

from dataclasses import dataclass

from ncbatch.plan.generations import StandingRow


@dataclass(frozen=True)
class Finding:
    """What became of one row.

    Attributes:
        image_key: of the row.
        variant: of the row.
        written: the key of the decoded object; in a tar, the tar's and the member's.
        problem: what is wrong, as a message.
        damaged: the row, where its own bytes are at fault and not the run's model.
    """

    image_key: str
    variant: str
    written: str | None = None
    problem: str | None = None
    damaged: StandingRow | None = None
