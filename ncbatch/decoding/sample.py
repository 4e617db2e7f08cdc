"""Some rows of a run, drawn at random: so many of them, or such a share."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ncbatch.settings import Number, positive_int

_percent = Number(above=0, most=100)


@dataclass(frozen=True)
class Sample:
    """How many rows are drawn. count: so many; share: such a part of them, 0 to 1; one of both is given."""

    count: int | None = None
    share: float | None = None

    def of(self, rows: int) -> int:
        """How many of so many rows; at least one."""
        if self.share is not None:
            return max(math.ceil(self.share * rows - 1e-9), 1)
        return min(self.count or 1, rows)

    @property
    def text(self) -> str:
        """As it is typed."""
        return f"{100 * self.share:g}%" if self.share is not None else str(self.count)


def sample_of(text: str) -> Sample:
    """The sample that `--sample` asks for: a number of images, or a percentage such as 0.5%.

    Raises:
        ValueError: it is neither.
    """
    if text.endswith("%"):
        return Sample(share=_percent(text[:-1].strip()) / 100)
    try:
        return Sample(count=int(positive_int(text)))
    except ValueError as error:
        raise ValueError(f"{error}, nor a percentage such as 1%") from None
