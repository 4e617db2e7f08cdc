"""How many workers there should be, and of what kind, while nodes join and leave a cluster. Pure."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from ncbatch.driver.cluster_view import ClusterView
from ncbatch.driver.options import PoolConfig

log = logging.getLogger(__name__)

_AHEAD = 4, 100
"""Workers that are asked for beyond the room that there is: at least, at most."""

Needs = Mapping[str, float]
"""What Ray reserves for a worker, by its names of resources."""


@dataclass(frozen=True)
class Aim:
    """How many workers there should be, those that wait for room included, and what each needs."""

    workers: int
    needs: Needs


@dataclass(frozen=True)
class Elastic:
    """The rules of one pool.

    Attributes:
        size: As the user states it.
        may_grow: Whether nodes may join, which somebody starts who sees that workers wait for room.
    """

    size: PoolConfig
    may_grow: bool

    def needs(self, view: ClusterView, before: Needs | None = None) -> Needs:
        """What a worker needs: by default a GPU as soon as there is one, and from then on."""
        gpus = self.size.gpus
        if gpus is None:
            had = before is not None and before["GPU"] > 0
            gpus = 1.0 if had or view.total("GPU") else 0.0
        return {"CPU": self.size.cpus, "GPU": gpus}

    def room(self, view: ClusterView, needs: Needs) -> int:
        """How many workers there may be at present, whether or not they have started."""
        return self.size.workers if self.size.workers is not None else max(view.room(needs), 1)

    def aim(self, view: ClusterView, wanted: int, before: Needs | None = None) -> Aim:
        """How many workers should be there or wait for room.

        Ray's autoscaler acts on actors that wait. As many wait as there is room for, so that a cluster may
        double; without an autoscaler they wait for nodes that somebody adds, and cost nothing.

        Args:
            wanted: workers that could be busy.
            before: what a worker needed until now.
        """
        needs = self.needs(view, before)
        room = self.room(view, needs)
        least, most = _AHEAD
        ahead = min(max(room, least), most) if self.may_grow and self.size.workers is None else 0
        return Aim(min(wanted, room + ahead), needs)


def warn_of_scarcity(needs: Needs, view: ClusterView) -> None:
    """Says what workers need that cannot start, and what there is."""
    log.warning(
        "no worker could start for a minute: each needs CPUs: %g, GPUs: %g, and the cluster has in all "
        "CPUs: %g, GPUs: %g; add nodes or ask for less with --cpus-per-worker and --gpus-per-worker",
        needs["CPU"],
        needs["GPU"],
        view.total("CPU"),
        view.total("GPU"),
    )
