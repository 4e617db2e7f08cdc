"""A cluster that loses a node."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from tests.end_to_end.command_line import environment, ncbatch, running, wait_for
from tests.end_to_end.images import save_images
from tests.end_to_end.runs import assert_verified, count, output_store, rows

pytestmark = [pytest.mark.ray, pytest.mark.slow]

# The death of a node is seen after a second, not after fourteen.
_QUICK = {
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "20000",  # a dead node refuses at once, a slow machine may take its time
    "RAY_health_check_failure_threshold": "3",
}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A head without CPUs on this machine; the test adds nodes."""
    for name, value in environment(**_QUICK).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    terminate = signal.getsignal(signal.SIGTERM)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
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
