"""What the cluster consists of, read beside the driver's loop: Ray's GCS may be slow, or be started again."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import ray
import ray._private.state
import ray._private.worker
from ray.exceptions import RayError

from ncbatch.driver.ray_folder import ray_folder
from ncbatch.errors import first_line

log = logging.getLogger(__name__)

_SECONDS = 2.0
"""Between two readings."""
_JOIN_SECONDS = 1.0
_GONE_READINGS = 3
"""In a row without a node, until it counts as gone: a GCS that was started again learns of the nodes anew."""


@dataclass(frozen=True)
class Node:
    """A node that is alive.

    Attributes:
        id: Ray's name for it.
        resources: in all, by Ray's names: CPU, GPU.
        draining: whether it is about to be taken away; it gets no new workers.
    """

    id: str
    resources: Mapping[str, float] = field(default_factory=dict)
    draining: bool = False

    def fits(self, needs: Mapping[str, float]) -> int:
        """How many workers with such needs the node has room for."""
        counts = [int(self.resources.get(name, 0.0) / need + 1e-9) for name, need in needs.items() if need]
        return 0 if self.draining else min(counts, default=1)


@dataclass(frozen=True)
class ClusterView:
    """The nodes at one moment."""

    nodes: tuple[Node, ...] = ()

    def total(self, resource: str) -> float:
        """How much of a resource all nodes have together."""
        return sum(node.resources.get(resource, 0.0) for node in self.nodes)

    def room(self, needs: Mapping[str, float]) -> int:
        """How many workers with such needs fit; each has to fit on one node."""
        return sum(node.fits(needs) for node in self.nodes)

    @property
    def draining(self) -> frozenset[str]:
        """The nodes that are about to be taken away."""
        return frozenset(node.id for node in self.nodes if node.draining)


def read_cluster() -> ClusterView:
    """Asks the GCS; waits for it as long as it does not answer.

    Raises:
        RayError: it does not answer.
    """
    leaving = ray._private.state.state.get_draining_nodes()
    return ClusterView(
        tuple(
            Node(node["NodeID"], dict(node["Resources"]), node["NodeID"] in leaving)
            for node in ray._private.state.state.node_table()
            if node["Alive"]
        )
    )


def raylet_has_died() -> bool:
    """Whether the raylet has died that this process started. Ray itself notices it some time later, and ends
    the program then.
    """
    node = ray._private.worker._global_node
    return node is not None and any("raylet" in str(kind) for kind, _ in node.dead_processes())


def this_node() -> str:
    """The node that this process is on, by Ray's name for it."""
    return str(ray.get_runtime_context().get_node_id())


def orphaned_reason() -> str:
    """Why a driver has to end whose node has died, and how to go on."""
    return (
        "Ray has died on this machine: its raylet was killed or has ended, often for want of memory; its "
        f"logs are in session_latest/logs of {ray_folder()}; run the same command again to continue"
    )


class ClusterWatch:
    """A thread that reads what the cluster consists of; the last reading counts until the next succeeds.

    Args:
        read: one reading, which may take its time or raise a RayError.
        seconds: between two readings.
        own: the node that this process is on.
        dead: whether Ray's process on it is known to have died.
    """

    def __init__(
        self,
        read: Callable[[], ClusterView] = read_cluster,
        seconds: float = _SECONDS,
        own: str | None = None,
        dead: Callable[[], bool] = lambda: False,
    ) -> None:
        self._read, self._seconds, self._own, self._dead = read, seconds, own, dead
        self._without_own = 0
        self.view = read()
        self._over = threading.Event()
        self._failing = False
        self._thread = threading.Thread(target=self._run, name="cluster", daemon=True)
        self._thread.start()

    @property
    def is_orphaned(self) -> bool:
        """Whether Ray has ended on this process's node, so that nothing more can be asked of it."""
        return self._without_own >= _GONE_READINGS

    def close(self) -> None:
        """Ends the readings; one that is under way is not waited for long."""
        self._over.set()
        self._thread.join(_JOIN_SECONDS)

    def _run(self) -> None:
        while not self._over.wait(self._seconds):
            if self._dead():
                self._without_own = _GONE_READINGS
                return
            try:
                self.view = self._read()
            except (RayError, OSError, RuntimeError) as error:
                if not self._failing and not self._over.is_set():
                    log.warning(
                        "Ray does not say which nodes there are, and encoding goes on with those that were "
                        "there: %s",
                        first_line(error),
                    )
                self._failing = True
            else:
                there = self._own is None or any(node.id == self._own for node in self.view.nodes)
                self._without_own = 0 if there else self._without_own + 1
                if self._failing:
                    log.info("Ray says again which nodes there are")
                self._failing = False
