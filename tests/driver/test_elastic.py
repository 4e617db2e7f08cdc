"""How many workers there should be while nodes join and leave."""

from __future__ import annotations

from ncbatch.driver.cluster_view import ClusterView, Node
from ncbatch.driver.elastic import Aim, Elastic
from ncbatch.driver.options import PoolConfig

CPUS, GPUS = {"CPU": 1.0, "GPU": 0.0}, {"CPU": 1.0, "GPU": 1.0}
HEAD = Node("head", {"CPU": 0.0})
FOUR = Node("four", {"CPU": 4.0})
GPU_NODE = Node("gpus", {"CPU": 16.0, "GPU": 8.0})


def test_gpus_are_used_as_soon_as_there_are_any_and_from_then_on() -> None:
    elastic = Elastic(PoolConfig(), may_grow=False)
    before = elastic.aim(ClusterView((FOUR,)), 1000)
    assert before == Aim(4, CPUS)
    after = elastic.aim(ClusterView((FOUR, GPU_NODE)), 1000, before.needs)
    assert after == Aim(8, GPUS)
    assert elastic.needs(ClusterView((FOUR,)), after.needs) == GPUS, "the units are cut for GPUs"


def test_what_the_user_states_counts() -> None:
    assert Elastic(PoolConfig(gpus=0.0), may_grow=True).needs(ClusterView((GPU_NODE,))) == CPUS
    assert Elastic(PoolConfig(workers=3), may_grow=True).aim(ClusterView((HEAD,)), 1000) == Aim(3, CPUS)


def test_where_nodes_may_join_workers_wait_for_them_as_far_as_there_is_work() -> None:
    elastic = Elastic(PoolConfig(gpus=1.0), may_grow=True)
    assert elastic.aim(ClusterView((HEAD,)), 1000) == Aim(1 + 4, GPUS), (
        "no node yet: this is what asks for some"
    )
    assert elastic.aim(ClusterView((HEAD, GPU_NODE)), 1000).workers == 8 + 8
    many = tuple(Node(str(n), {"CPU": 8.0, "GPU": 8.0}) for n in range(32))
    assert elastic.aim(ClusterView(many), 1000).workers == 256 + 100
    assert elastic.aim(ClusterView(many), 10).workers == 10


def test_nobody_waits_where_no_node_can_join() -> None:
    assert Elastic(PoolConfig(), may_grow=False).aim(ClusterView((FOUR,)), 1000).workers == 4


def test_a_head_without_cpus_is_left_out() -> None:
    elastic = Elastic(PoolConfig(), may_grow=False)
    assert elastic.room(ClusterView((HEAD, FOUR)), CPUS) == 4
