"""How a run is carried out, as its user states it: light, so that a wrong flag is told at once."""

from __future__ import annotations

from dataclasses import dataclass, field

from ncbatch.driver.schedule import Policy
from ncbatch.plan.retry import Retry
from ncbatch.store import StoreOptions
from ncbatch.worker.options import WorkerOptions


@dataclass(frozen=True)
class PoolConfig:
    """Size of the pool and of its workers.

    workers: how many; None: as many as the cluster has room for, growing with it.
    cpus, gpus: of one worker; gpus None: one where the cluster has any.
    """

    workers: int | None = None
    cpus: float = 1.0
    gpus: float | None = None

    @property
    def threads(self) -> int:
        """Of each worker's computations."""
        return max(int(self.cpus), 1)


@dataclass(frozen=True)
class Deadlines:
    """When a call counts as hung: `factor` times the expected time, but at least `floor` seconds."""

    factor: float = 4.0
    floor: float = 120.0


@dataclass(frozen=True)
class EncodeOptions:
    """How a run is carried out; none of it changes what an image becomes.

    unit_seconds: how long a unit should take.
    force: work beside a driver that holds the lease.
    retry: which failed rows are tried again; None: none.
    """

    store: StoreOptions = field(default_factory=StoreOptions)
    pool: PoolConfig = field(default_factory=PoolConfig)
    ray_address: str | None = None
    worker: WorkerOptions = field(default_factory=WorkerOptions)
    unit_seconds: float = 300.0
    policy: Policy = field(default_factory=Policy)
    deadlines: Deadlines = field(default_factory=Deadlines)
    force: bool = False
    retry: Retry | None = None
