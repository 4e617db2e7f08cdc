"""A pool in a cluster that grows and shrinks. Ray is played (see tests/driver/played_ray.py)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ncbatch.driver.cluster_view import ClusterView, Node
from ncbatch.driver.elastic import Elastic
from ncbatch.driver.options import PoolConfig
from ncbatch.driver.pool import Pool
from ncbatch.worker.beats import Beat
from ncbatch.worker.worker import GivenBack
from tests.driver.played_ray import DONE, NEVER, PlayedRay, begun, call, results


class Watch:
    """A cluster that changes as the test says."""

    def __init__(self, *nodes: Node) -> None:
        self.view = ClusterView(nodes)


@pytest.fixture
def elastic(start: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Pool, PlayedRay, Watch]]:
    """A pool in a cluster that may grow; its workers say that they are on the first node."""

    def started(*devices: list[Any], node: Node) -> tuple[Pool, PlayedRay, Watch]:
        pool, ray = start(*devices)
        watch = Watch(node)
        pool._watch, pool._elastic = watch, Elastic(PoolConfig(), may_grow=True)
        monkeypatch.setattr(pool, "_recruit", lambda needs: setattr(pool, "_needs", needs))
        for slot in pool._slots:
            slot.info = replace(slot.info, node=node.id)
        return pool, ray, watch

    return started


CPUS = Node("cpus", {"CPU": 2.0})


def test_workers_without_work_are_given_back_and_busy_ones_are_not(elastic: Any) -> None:
    pool, ray, _ = elastic([NEVER], [], [DONE], node=Node("n", {"CPU": 3.0, "GPU": 3.0}))
    begun(pool, patience=60.0)
    pool.grow(3)
    assert pool.size == 3
    pool.grow(1)
    assert [actor.killed for actor in ray.actors] == [False, True, True]
    assert pool.calling and pool.size == 1


def test_workers_that_wait_for_room_are_the_first_to_be_given_back(elastic: Any) -> None:
    pool, ray, _ = elastic([], node=Node("n", {"CPU": 1.0, "GPU": 1.0}))
    pool.grow(1000)
    assert not results(pool)
    assert len(ray.actors) == 1 + 4 and (pool.size, pool.ready_workers) == (1, 1), "only one has room"
    pool.grow(1)
    assert [actor.killed for actor in ray.actors] == [False] + [True] * 4


def test_a_worker_whose_node_is_to_be_taken_away_gives_its_unit_back(elastic: Any) -> None:
    node = Node("n", {"CPU": 1.0, "GPU": 1.0})
    pool, ray, watch = elastic([NEVER], [], node=node)
    pool._slots[1].info = replace(pool._slots[1].info, node="other")
    begun(pool, patience=60.0)
    pool.grow(2)
    assert not results(pool)
    assert pool._board.report(Beat("attempt 0", 0.1)) is False
    watch.view = ClusterView((replace(node, draining=True), replace(node, id="other")))
    pool.grow(2)
    assert not ray.actors[0].killed, "it saves its state first"
    assert not results(pool)
    assert pool._board.report(Beat("attempt 0", 0.2)) is True
    pool._slots[0].ref.answer = GivenBack()
    assert results(pool) == [GivenBack()]
    pool.grow(2)
    assert ray.actors[0].killed and not ray.actors[1].killed
    assert call(pool) == DONE


def test_a_worker_that_was_ended_by_its_machine_gets_no_other_unit(elastic: Any) -> None:
    """It has had its SIGTERM, of which the cluster knows nothing."""
    pool, ray, _ = elastic([GivenBack()], node=Node("n", {"CPU": 1.0, "GPU": 1.0}))
    assert call(pool) == GivenBack()
    assert not pool.idle()
    pool.grow(1)
    assert ray.actors[0].killed and len(ray.actors) == 2


def test_gpus_that_join_are_used_and_cpus_are_given_up(elastic: Any) -> None:
    pool, ray, watch = elastic([NEVER], [], node=CPUS)
    pool._needs = {"CPU": 1.0, "GPU": 0.0}
    for slot in pool._slots:
        slot.needs = pool._needs
    begun(pool, patience=60.0)
    pool.grow(2)
    assert pool.room == 2 and not any(actor.killed for actor in ray.actors)
    watch.view = ClusterView((CPUS, Node("gpus", {"CPU": 8.0, "GPU": 1.0})))
    pool.grow(1)
    assert [actor.killed for actor in ray.actors] == [False, True, False]
    assert pool.room == 1 and pool.size == 1
    assert not results(pool)
    assert pool._board.report(Beat("attempt 0", 0.1)) is True, "a GPU goes on from where the CPU is"
