"""The cluster and the store that `benchmarks.chaos` breaks."""

from __future__ import annotations

import contextlib
import io
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image

from tests.end_to_end.command_line import MARK, marked_processes
from tests.servers import S3Server, started_moto

_ROOT = Path(__file__).resolve().parents[1]
_SABOTEUR = Path(__file__).parent / "chaos_saboteur"
_QUICK = {  # the death of a node is seen after a second or two, not after fourteen
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "20000",
    "RAY_health_check_failure_threshold": "3",
}
_NODES = 3
"""That are well, at the start; there are never fewer than two, nor more than four."""
_SIDE = 48


def encoded_png(rng: np.random.Generator) -> bytes:
    """A tiny image of its own."""
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (_SIDE, _SIDE, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@contextlib.contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """A server that honours conditions."""
    with started_moto(folder) as server:
        yield server


class ChaosCluster:
    """A head without workers, nodes of one worker each that come and go, and three that are no good.

    Args:
        env: how workers reach the store. flags: see the saboteur. unit_seconds: that a unit takes at least.
    """

    def __init__(self, env: dict[str, str], flags: Path, seed: int, unit_seconds: float) -> None:
        self._env, self._flags, self._seconds = env, flags, unit_seconds
        self._rng = random.Random(seed)
        self._nodes: list[Any] = []

    def driver_environment(self) -> dict[str, str]:
        """Beside the store's, for the command."""
        return self._common() | {"PYTHONPATH": str(_ROOT)}

    def _common(self) -> dict[str, str]:
        return {
            **_QUICK,
            "RAY_AUTH_MODE": "disabled",
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(_SABOTEUR), str(_ROOT)]),
            "NCBATCH_CHAOS_FLAGS": str(self._flags),
            "NCBATCH_CHAOS_SECONDS": str(self._seconds),
            MARK: self._flags.parent.name,
        }

    def __enter__(self) -> ChaosCluster:
        os.environ |= self._common()
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        from ray.cluster_utils import Cluster  # reads the environment

        self._terminate = signal.getsignal(signal.SIGTERM)
        self._cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
        )
        for _ in range(_NODES):
            self.join()
        self._add(NCBATCH_CHAOS="sick")
        self._add(NCBATCH_CHAOS="clock")
        self._add(AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cluster.shutdown()
        signal.signal(signal.SIGTERM, self._terminate)  # the cluster has put its own in its place
        for pid in marked_processes(self._flags.parent.name):
            if pid != os.getpid():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    @property
    def address(self) -> str:
        """Of the head."""
        return str(self._cluster.address)

    def _add(self, **env: str) -> Any:
        return self._cluster.add_node(num_cpus=1, env_vars=self._env | env)

    def join(self) -> None:
        """A node joins, where there are not too many."""
        if len(self._nodes) < _NODES + 1:
            self._nodes.append(self._add())

    def _some_node(self) -> Any:
        """One that is well, taken out of the list; another one joins where it would be one of the last."""
        if len(self._nodes) < _NODES:
            self.join()
        return self._nodes.pop(self._rng.randrange(len(self._nodes)))

    def remove_node(self) -> None:
        """All processes of a node end at once."""
        self._cluster.remove_node(self._some_node(), allow_graceful=False)

    def kill_raylet(self) -> None:
        """Only a node's raylet dies; its worker may go on for a while."""
        node = self._some_node()
        node.kill_raylet(check_alive=False)
        with contextlib.suppress(Exception):  # what is left of it
            self._cluster.remove_node(node, allow_graceful=False)

    def kill_worker(self) -> None:
        """A worker that is in a unit dies, or else any."""
        processes = marked_processes(self._flags.parent.name)
        workers = [pid for pid, line in processes.items() if "ray::Worker" in line]
        busy = [pid for pid in workers if "ray::Worker." in processes[pid]]
        if workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._rng.choice(sorted(busy or workers)), signal.SIGKILL)
