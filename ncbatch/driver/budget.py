"""What a command may spend on a run, as its user states it; light, so that a wrong flag is told at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ncbatch.errors import UsageError
from ncbatch.settings import Price, Setting, positive_float


@dataclass(frozen=True)
class Budget:
    """What one command may spend on a run.

    Raises:
        UsageError: a limit of the cost without a price.
    """

    max_hours: Annotated[float | None, Setting(
        "begin nothing more after so many hours of this command, finish what is in flight, and end with exit "
        "code 3", "HOURS", positive_float, default="no limit",
    )] = None  # fmt: skip
    max_cost: Annotated[float | None, Setting(
        "the same when this command's workers have cost so much, by --price-per-hour", "AMOUNT",
        positive_float, default="no limit",
    )] = None  # fmt: skip
    price_per_hour: Price = None

    def __post_init__(self) -> None:
        if self.max_cost is not None and self.price_per_hour is None:
            raise UsageError("--max-cost needs --price-per-hour, of which the cost is made")
