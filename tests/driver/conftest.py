"""A pool of workers in a Ray that is played, and a clock that is."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from ncbatch.driver import lost_calls as lost_calls_module
from ncbatch.driver import pool as pool_module
from ncbatch.driver.options import PoolConfig
from ncbatch.driver.pool import Pool
from ncbatch.worker.beats import Board
from tests.driver.played_ray import Clock, PlayedRay


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Pool, PlayedRay]]:
    """Starts a pool of a worker on each device, with a board that goes by the clock that is played."""

    def started(*devices: list[Any]) -> tuple[Pool, PlayedRay]:
        ray = PlayedRay(*map(deque, devices))
        for module in (pool_module, lost_calls_module):
            monkeypatch.setattr(module, "ray", ray)
        pool = Pool(None, PoolConfig(workers=len(devices), gpus=1.0))  # type: ignore[arg-type]
        pool._board = Board(pool_module.time.monotonic)  # type: ignore[assignment]
        pool._actor_class = type("Class", (), {"remote": staticmethod(ray.actor_class)})
        pool.grow(len(devices))
        while pool.ready_workers < len(devices):
            assert not list(pool.events(0.0))
        return pool, ray

    return started


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pool_module, "time", clock)
    return clock
