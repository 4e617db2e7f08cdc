"""How a worker does units, as its user states it: light, so that a wrong flag is told at once."""

from __future__ import annotations

from dataclasses import dataclass

from ncbatch.codec.recipe import STEPS_BETWEEN_PAUSES
from ncbatch.errors import UsageError


@dataclass(frozen=True)
class WorkerOptions:
    """How a worker does units; none of it changes what an image becomes.

    Attributes:
        batch_size: Images of one padded shape that are refined together.
        wip_seconds: Seconds between two saves of a refinement's state.
        trace_every: Steps between two looks at a refinement, for the side table; 0: none.

    Raises:
        UsageError: a refinement does not pause for looks at such steps.
    """

    batch_size: int = 1
    wip_seconds: float = 60.0
    trace_every: int = 0

    def __post_init__(self) -> None:
        if self.trace_every % STEPS_BETWEEN_PAUSES:
            raise UsageError(f"--trace {self.trace_every}: give a multiple of {STEPS_BETWEEN_PAUSES} steps")
