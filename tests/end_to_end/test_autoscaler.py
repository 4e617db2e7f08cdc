"""Ray's own autoscaler, whose nodes are processes of this machine: it starts nodes for workers that wait."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.command_line import Running, environment, running, wait_for
from tests.end_to_end.images import save_images
from tests.end_to_end.runs import assert_verified, output_store, rows
from tests.servers import free_port

pytestmark = [pytest.mark.ray, pytest.mark.slow]

_MEMORY = 100_000_000  # bytes of each node's object store


def _configuration(gcs: str) -> dict[str, Any]:
    """A head without CPUs, and up to two nodes with two GPUs (in name only), none of which is there yet."""
    node: dict[str, Any] = {"node_config": {}, "min_workers": 0}
    gpus = {"CPU": 2, "GPU": 2, "object_store_memory": _MEMORY}
    lists = (
        "initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands",
        "head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files", "rsync_exclude",
        "rsync_filter",
    )  # fmt: skip
    return {
        "cluster_name": "test",
        "provider": {"type": "fake_multinode", "gcs_address": gcs},
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        "max_workers": 2,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 5,
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "gpus": {**node, "max_workers": 2, "resources": gpus},
        },
        **{name: [] for name in lists},
    }


@pytest.fixture
def address() -> Iterator[str]:
    """Of a head with an autoscaler."""
    folder = tempfile.mkdtemp(prefix="ray")  # a socket's path has no room for pytest's long names
    gcs = f"127.0.0.1:{free_port()}"
    configuration = Path(folder, "autoscaler.json")
    configuration.write_text(json.dumps(_configuration(gcs)))
    command = (
        *(str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--disable-usage-stats"),
        *("--node-ip-address=127.0.0.1", f"--port={gcs.rpartition(':')[2]}", f"--temp-dir={folder}"),
        *("--num-cpus=0", "--num-gpus=0", f"--object-store-memory={_MEMORY}", "--include-dashboard=false"),
        f"--autoscaling-config={configuration}",
        # Free ports: another Ray may run on this machine.
        *(f"--dashboard-agent-listen-port={free_port()}", f"--ray-client-server-port={free_port()}"),
        f"--metrics-export-port={free_port()}",
    )
    ray = Running(command, environment(RAY_FAKE_CLUSTER="1", AUTOSCALER_UPDATE_INTERVAL_S="1"), None)
    try:
        wait_for(lambda: "Ray runtime started" in ray.done.out, "Ray starts")
        assert ray.process.poll() is None, str(ray.done)
        yield gcs
    finally:
        ray.kill()
        shutil.rmtree(folder, ignore_errors=True)


def test_nodes_are_started_for_workers_that_wait(address: str, tmp_path: Path) -> None:
    keys = save_images(tmp_path / "in", 12)
    command = ("encode", tmp_path / "in", tmp_path / "out", "--steps", "500", "--gpus-per-worker", "1")
    with running(*command, "--ray-address", address) as run:
        wait_for(lambda: "2 workers" in run.err or run.process.poll() is not None, "a node is started")
        done = run.wait().expect(0)
    assert "2 workers" in done.err
    finished = rows(output_store(tmp_path / "out"))
    assert set(finished) == set(keys) and {row["status"] for row in finished.values()} == {"ok"}
    assert_verified(output_store(tmp_path / "out"))
