"""How a worker does units, as its user states it: light, so that a wrong flag is told at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ncbatch.codec.recipe import STEPS_BETWEEN_PAUSES
from ncbatch.errors import UsageError
from ncbatch.settings import Multiple, Setting, positive_int


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

    batch_size: Annotated[int, Setting(
        "images that a worker refines together, which uses a GPU better and takes more of its memory; "
        "results do not depend on it", "N", positive_int, environment=True,
    )] = 1  # fmt: skip
    wip_seconds: float = 60.0
    trace_every: Annotated[int, Setting(
        "record loss, bits, PSNR and temperature every so many steps, a multiple of 10, in traces/ of the "
        "output; 0: not at all", "STEPS", Multiple(STEPS_BETWEEN_PAUSES), name="trace",
    )] = 0  # fmt: skip

    def __post_init__(self) -> None:
        if self.trace_every % STEPS_BETWEEN_PAUSES:
            raise UsageError(f"--trace {self.trace_every}: give a multiple of {STEPS_BETWEEN_PAUSES} steps")
