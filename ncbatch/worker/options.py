"""How a worker does units, as its user states it: light, so that a wrong flag is told at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ncbatch.codec.recipe import STEPS_BETWEEN_PAUSES
from ncbatch.errors import UsageError
from ncbatch.settings import Multiple, Setting, positive_int


def _number_or_auto(text: str) -> int | None:
    """Raises ValueError: neither."""
    if text == "auto":
        return None
    try:
        return int(positive_int(text))
    except ValueError as error:
        raise ValueError(f"{error}, nor auto") from None


@dataclass(frozen=True)
class WorkerOptions:
    """How a worker does units; none of it changes what an image becomes.

    Attributes:
        batch_size: Images of one padded shape that are refined together; None: see `worker.batching`.
        wip_seconds: Seconds between two saves of a refinement's state.
        trace_every: Steps between two looks at a refinement, for the side table; 0: none.

    Raises:
        UsageError: a refinement does not pause for looks at such steps.
    """

    batch_size: Annotated[int | None, Setting(
        "images that a worker refines together: a number, or auto, which on a GPU tries how many are "
        "fastest, and is 1 on a CPU; results do not depend on it", "N", _number_or_auto, default="auto",
        environment=True,
    )] = None  # fmt: skip
    wip_seconds: float = 60.0
    trace_every: Annotated[int, Setting(
        "record loss, bits, PSNR and temperature every so many steps, a multiple of 10, in traces/ of the "
        "output; 0: not at all", "STEPS", Multiple(STEPS_BETWEEN_PAUSES), name="trace",
    )] = 0  # fmt: skip

    def __post_init__(self) -> None:
        if self.trace_every % STEPS_BETWEEN_PAUSES:
            raise UsageError(f"--trace {self.trace_every}: give a multiple of {STEPS_BETWEEN_PAUSES} steps")
