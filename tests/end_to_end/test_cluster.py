"""A cluster that loses a node, its GCS or its dashboard."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray._private.node import Node
from ray.cluster_utils import Cluster

from tests.end_to_end.command_line import HANG_SECONDS, environment, ncbatch, running, wait_for
from tests.end_to_end.images import save_images
from tests.end_to_end.runs import assert_verified, count, output_store, rows
from tests.servers import free_port

pytestmark = [pytest.mark.ray, pytest.mark.slow]

# The death of a node is seen after a second, not after fourteen.
_QUICK = {
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "20000",  # a dead node refuses at once, a slow machine may take its time
    "RAY_health_check_failure_threshold": "3",
}
# How long a node or a driver may be without its GCS before Ray ends it: what a slow machine needs for units.
_PATIENT = {"RAY_gcs_rpc_server_reconnect_timeout_s": f"{HANG_SECONDS:.0f}"}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A head without CPUs on this machine; the test adds nodes."""
    yield from _cluster(monkeypatch, _QUICK)


@pytest.fixture
def durable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Cluster]:
    """The same with a dashboard, and with a GCS that can be started again."""
    settings = {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": str(tmp_path / "gcs"), **_PATIENT}
    yield from _cluster(monkeypatch, _QUICK | settings, include_dashboard=True)


def _cluster(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], *, include_dashboard: bool = False
) -> Iterator[Cluster]:
    for name, value in environment(**settings).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    terminate = signal.getsignal(signal.SIGTERM)
    head = {"num_cpus": 0, "include_dashboard": include_dashboard, "dashboard_port": free_port()}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        yield cluster
    finally:
        cluster.shutdown()
        signal.signal(signal.SIGTERM, terminate)  # the cluster has put its own in its place


def test_a_node_that_is_lost_in_a_unit(cluster: Cluster, tmp_path: Path) -> None:
    keys = save_images(tmp_path / "in", 10)
    out = output_store(tmp_path / "out")
    lost, _ = cluster.add_node(num_cpus=1), cluster.add_node(num_cpus=1)
    command = ("encode", tmp_path / "in", tmp_path / "out", "--steps", "300")
    with running(*command, "--ray-address", cluster.address) as run:
        wait_for(lambda: "2 workers" in run.err and count(out, "units/"), "both nodes work")
        cluster.remove_node(lost, allow_graceful=False)
        done = run.wait().expect(0)
    assert "lost a worker" in done.err
    finished = rows(out)
    assert set(finished) == set(keys) and {row["status"] for row in finished.values()} == {"ok"}
    assert_verified(out)
    again = ncbatch(*command, "--ray-address", cluster.address).expect(0)
    assert "connecting" not in again.err, "nothing is left to do"


def test_a_node_that_is_to_be_taken_away_gives_its_unit_back(cluster: Cluster, tmp_path: Path) -> None:
    keys = save_images(tmp_path / "in", 6)
    out = output_store(tmp_path / "out")
    goes, _ = cluster.add_node(num_cpus=1), cluster.add_node(num_cpus=1)
    command = ("encode", tmp_path / "in", tmp_path / "out", "--steps", "1000")
    with running(*command, "--ray-address", cluster.address) as run:
        wait_for(lambda: "2 workers" in run.err and count(out, "units/"), "both nodes work")
        ray = Path(sys.executable).with_name("ray")
        words = ("--node-id", goes.node_id, "--reason", "DRAIN_NODE_REASON_PREEMPTION")
        notice = (ray, "drain-node", "--address", cluster.address, *words, "--reason-message", "spot")
        subprocess.run([*map(str, notice)], check=True)
        wait_for(lambda: "gives back what it is at" in run.err, "the driver hears of it")
        done = run.wait().expect(0)
    assert "lost a worker" not in done.err
    finished = rows(out)
    assert set(finished) == set(keys) and {row["status"] for row in finished.values()} == {"ok"}
    assert_verified(out)


def test_gpus_that_join_later_are_used(cluster: Cluster, tmp_path: Path) -> None:
    """They are so in name only, and compute as CPUs do."""
    keys = save_images(tmp_path / "in", 12)
    out = output_store(tmp_path / "out")
    cluster.add_node(num_cpus=1)
    command = ("encode", tmp_path / "in", tmp_path / "out", "--steps", "500")
    with running(*command, "--ray-address", cluster.address) as run:
        wait_for(lambda: "1 worker," in run.err and count(out, "units/"), "the CPU is at it")
        cluster.add_node(num_cpus=2, num_gpus=2)
        wait_for(lambda: "GPUs have joined" in run.err and "2 workers" in run.err, "GPUs are used")
        done = run.wait().expect(0)
    assert "lost a worker" not in done.err
    finished = rows(out)
    assert set(finished) == set(keys) and {row["status"] for row in finished.values()} == {"ok"}


@pytest.mark.skipif(not hasattr(Node, "_is_rocksdb_gcs"), reason="this Ray cannot keep its GCS on a disk")
def test_the_gcs_and_the_dashboard_are_started_again_and_nothing_is_done_twice(
    durable: Cluster, tmp_path: Path
) -> None:
    keys = save_images(tmp_path / "in", 24)
    out = output_store(tmp_path / "out")
    durable.add_node(num_cpus=2)
    head: Any = durable.head_node
    command = ("encode", tmp_path / "in", tmp_path / "out", "--steps", "200", "--unit-seconds", "0.1")
    with running(*command, "--ray-address", durable.address, env=environment(**_PATIENT)) as run:
        wait_for(lambda: count(out, "units/"), "workers are at it")
        head.kill_gcs_server()
        head.kill_dashboard()
        before = count(out, "units/")
        wait_for(lambda: count(out, "units/") > before + 3 or run.process.poll() is not None, "units go on")
        run.assert_runs()
        head.start_gcs_server()
        head.start_api_server(include_dashboard=True, raise_on_failure=True)
        done = run.wait().expect(0)
    assert "lost a worker" not in done.err and "no sign of life" not in done.err
    finished = rows(out)
    assert set(finished) == set(keys) and {row["status"] for row in finished.values()} == {"ok"}
    numbers = {int(row["attempt"].rpartition("-")[2]) for row in finished.values()}
    assert numbers == set(range(1, len({row["unit"] for row in finished.values()}) + 1)), (
        "each was called once"
    )
    assert_verified(out)
