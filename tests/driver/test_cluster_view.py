"""What the cluster consists of, and a Ray that does not tell."""

from __future__ import annotations

import logging
import threading

import pytest
from ray.exceptions import RaySystemError

from ncbatch.driver.cluster_view import ClusterView, ClusterWatch, Node, orphaned_reason

GPU_WORKER = {"CPU": 1.0, "GPU": 1.0}
CPU_WORKER = {"CPU": 2.0, "GPU": 0.0}


def node(name: str = "n", draining: bool = False, **resources: float) -> Node:
    return Node(name, resources, draining)


def test_room_is_counted_by_node() -> None:
    head, gpus = node(CPU=64.0), node(CPU=4.0, GPU=8.0)
    assert ClusterView((head,)).room(GPU_WORKER) == 0
    assert ClusterView((head, gpus)).room(GPU_WORKER) == 4, "the head's CPUs are no use to the other's GPUs"
    assert ClusterView((node(CPU=3.0), node(CPU=3.0))).room(CPU_WORKER) == 2, "no worker spans two nodes"
    assert ClusterView((node(CPU=1.0, GPU=1.0),)).room({"CPU": 0.1, "GPU": 0.1}) == 10
    assert ClusterView((node(), node(CPU=2.0))).room(CPU_WORKER) == 1, "a head without CPUs takes no worker"


def test_a_node_that_is_leaving_has_no_room() -> None:
    view = ClusterView((node("stays", CPU=2.0), node("leaves", True, CPU=2.0)))
    assert view.room(CPU_WORKER) == 1
    assert view.draining == {"leaves"}


def test_the_last_reading_counts_while_ray_is_away(caplog: pytest.LogCaptureFixture) -> None:
    first, second = ClusterView((node("a"),)), ClusterView((node("a"), node("b")))
    asked = threading.Semaphore(0)
    answers = threading.Event()
    readings = iter([first, None, None, second])

    def read() -> ClusterView:
        reading = next(readings, second)
        if reading is not first:
            asked.release()
            answers.wait()
        if reading is None:
            raise RaySystemError("the GCS is down")
        return reading

    with caplog.at_level(logging.INFO):
        watch = ClusterWatch(read, seconds=0.001)
        asked.acquire()
        assert watch.view == first, "told at once, although Ray has not answered"
        answers.set()
        for _ in range(3):
            asked.acquire()
        watch.close()
    assert watch.view == second
    messages = [record.message for record in caplog.records]
    assert len(messages) == 2, "an outage is reported once, and its end"
    assert "the GCS is down" in messages[0] and "again" in messages[1]


def test_ray_counts_as_dead_here_once_its_node_has_been_gone_for_a_while() -> None:
    """A GCS that was started again does not know all nodes at once."""
    here, other = ClusterView((node("here"), node("b"))), ClusterView((node("b"),))
    readings = iter([here, other, other, here, other, other])
    read, go_on = threading.Semaphore(0), threading.Semaphore(0)

    def reading() -> ClusterView:
        read.release()
        go_on.acquire()
        return next(readings, other)

    go_on.release()
    watch = ClusterWatch(reading, seconds=0.001, own="here")
    read.acquire()
    for _ in range(6):  # each is asked for when what the one before says has been taken in
        assert read.acquire(timeout=600) and not watch.is_orphaned
        go_on.release()
    for _ in range(2):
        assert read.acquire(timeout=600)
        go_on.release()
    assert watch.is_orphaned and "run the same command again" in orphaned_reason()
    go_on.release(100)
    watch.close()
