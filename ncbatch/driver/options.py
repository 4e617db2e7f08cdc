"""How a run is carried out, as its user states it: light, so that a wrong flag is told at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from ncbatch.driver.budget import Budget
from ncbatch.driver.limits import Policy
from ncbatch.plan.retry import Retry, retry_of
from ncbatch.settings import (
    STORAGE,
    Setting,
    cpu_count,
    gpu_count,
    positive_float,
    web_address,
    worker_count,
)
from ncbatch.store import StoreOptions
from ncbatch.worker.options import WorkerOptions


@dataclass(frozen=True)
class PoolConfig:
    """Size of the pool and of its workers.

    workers: how many; None: as many as the cluster has room for, growing with it.
    cpus, gpus: of one worker; gpus None: one where the cluster has any.
    """

    workers: Annotated[int | None, Setting(
        "worker processes, each with one unit at a time", "N", worker_count,
        default="as many as the cluster has GPUs for, or CPUs where it has no GPUs", environment=True,
    )] = None  # fmt: skip
    cpus: Annotated[float, Setting(
        "CPUs that Ray reserves for each worker, and threads that it computes with", "N", cpu_count,
        name="cpus-per-worker", environment=True,
    )] = 1.0  # fmt: skip
    gpus: Annotated[float | None, Setting(
        "GPUs that Ray reserves for each worker; a fraction shares one", "N", gpu_count,
        name="gpus-per-worker", default="1 where the cluster has GPUs, else 0", environment=True,
    )] = None  # fmt: skip

    @property
    def threads(self) -> int:
        """Of each worker's computations."""
        return max(int(self.cpus), 1)


@dataclass(frozen=True)
class Deadlines:
    """When a call counts as hung: when it has shown no sign of life for `factor` times as long as its largest
    image should take, but at least for `floor` seconds.
    """

    factor: float = 4.0
    floor: Annotated[float, Setting(
        "a worker that gets no further for 4 times as long as the largest image of its unit should take "
        "counts as hung and is replaced, but never before this",
        "SECONDS", positive_float, name="min-deadline",
    )] = 120.0  # fmt: skip


@dataclass(frozen=True)
class EncodeOptions:
    """How a run is carried out; none of it changes what an image becomes.

    retry: which failed rows are tried again; None: none.
    """

    pool: PoolConfig = field(default_factory=PoolConfig)
    worker: WorkerOptions = field(default_factory=WorkerOptions)
    unit_seconds: Annotated[float, Setting(
        "how much work is committed at once; images that are finished or half done outlast a lost worker in "
        "any case", "SECONDS", positive_float, environment=True,
    )] = 300.0  # fmt: skip
    deadlines: Deadlines = field(default_factory=Deadlines)
    policy: Policy = field(default_factory=Policy)
    budget: Budget = field(default_factory=Budget)
    retry: Annotated[Retry | None, Setting(
        "try failed rows again: all of them, or those of the error classes that are named (see `ncbatch "
        "failures`)", "[CLASS,...]", retry_of, name="retry-failed",
        default="a failed row stays until its input changes, after a second attempt where that may help",
    )] = None  # fmt: skip
    no_scan: Annotated[bool, Setting(
        "plan by guesses of how many pixels an image has, made of its bytes, and do not read the headers of "
        "all images first",
    )] = False  # fmt: skip
    yes: Annotated[bool, Setting(
        "go on without asking where more than 5 % of the run's images have changed and are encoded again",
        also=("y",),
    )] = False  # fmt: skip
    ray_address: Annotated[str | None, Setting(
        "Ray cluster to work on, such as 10.0.0.7:6379 or auto", "ADDRESS",
        default="RAY_ADDRESS where it is set, else a Ray of its own on this machine", environment=True,
    )] = None  # fmt: skip
    force: Annotated[bool, Setting(
        "take the run over from another driver that seems to be at it, which ends when it notices; no harm "
        "to the results, but some work may be done twice",
    )] = False  # fmt: skip
    notify: Annotated[str | None, Setting(
        "address that gets a JSON object by POST when the run has finished, was stopped or interrupted, or "
        "ended with an error", "URL", web_address, default="nobody is told", environment=True,
    )] = field(default=None, repr=False)  # fmt: skip
    store: Annotated[StoreOptions, STORAGE] = field(default_factory=StoreOptions)


@dataclass(frozen=True)
class CheckOptions:
    """How a run is verified or decoded on a cluster.

    ray_address: None: not on a cluster, but in the process of the caller. anew: whether an unfinished check
        is left as it is. force: as of `EncodeOptions`.
    """

    ray_address: Annotated[str | None, Setting(
        "do it on a Ray cluster, such as 10.0.0.7:6379 or auto, or local for a Ray of its own on this "
        "machine; what is found becomes a table in the run, which `ncbatch query` calls findings, and the "
        "same command goes on where it was ended", "ADDRESS", default="in this process",
    )] = None  # fmt: skip
    pool: PoolConfig = field(default_factory=PoolConfig)
    anew: Annotated[bool, Setting(
        "begin once more where the same command was ended before it had finished",
    )] = False  # fmt: skip
    force: Annotated[bool, Setting(
        "take it over from another command that seems to be at it, which ends when it notices",
    )] = False  # fmt: skip
