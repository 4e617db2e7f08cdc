"""How much a worker does beside the thread that keeps its device busy."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Bounds:
    """How much a worker does beside its main thread.

    Attributes:
        fetchers: threads that fetch images, and decode them.
        ahead: pixels of images that wait to be encoded.
        finishers: threads that code, verify and publish what was found.
        behind: pixels of images that are being encoded or finished.
        kept: pixels of images that were opened last and may be wanted by another variant.
    """

    fetchers: int
    ahead: int
    finishers: int
    behind: int
    kept: int = 0

    @staticmethod
    def of(device: torch.device, threads: int) -> Bounds:
        """What suits a device, beside which a worker computes with this many threads.

        A GPU is the scarce thing, and needs several threads that finish images as fast as it refines them.
        On a CPU all compete for the same cores: one thread hides the store's latency, and images of more than
        a few megapixels are encoded one after the other, so that they need no more memory than one alone.
        """
        if device.type == "cpu":
            return Bounds(fetchers=2, ahead=1 << 22, finishers=1, behind=1 << 22, kept=1 << 24)
        finishers = min(max(threads, 2), 8)
        return Bounds(fetchers=8, ahead=1 << 26, finishers=finishers, behind=1 << 27, kept=1 << 27)
