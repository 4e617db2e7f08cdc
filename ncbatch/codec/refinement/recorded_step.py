"""Steps on a GPU: recorded once, and launched together from then on."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from ncbatch.codec.model.precision import fastest_kernels

log = logging.getLogger(__name__)


class RecordedStep:
    """A step on a GPU: recorded as a CUDA graph after a few ordinary ones, and replayed from then on.

    Args:
        device: the GPU.
    """

    enabled = True
    """Whether steps are recorded at all; benchmarks and tests compare both."""

    _ORDINARY = 3  # steps in which libraries choose their kernels and allocate what they keep

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._taken, self._records = 0, self.enabled
        self._graph: torch.cuda.CUDAGraph | None = None

    def take(self, descend: Callable[[], None]) -> None:
        """Takes the step.

        Args:
            descend: the step, the same each time; reads and writes the same tensors. It is not kept: a circle
                of references would keep the graph's memory until Python looks for such.

        Raises:
            torch.cuda.OutOfMemoryError: recording needs memory of its own.
        """
        if self._records and self._graph is None and self._taken >= self._ORDINARY:
            self._record(descend)
        if self._graph is not None:
            self._graph.replay()
        else:
            self._ordinary(descend)
        self._taken += 1

    def _ordinary(self, descend: Callable[[], None]) -> None:
        # On a stream of its own, as recording demands of what comes before it.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream), fastest_kernels(self._device):
            descend()
        torch.cuda.current_stream().wait_stream(stream)

    def _record(self, descend: Callable[[], None]) -> None:
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads, which fetch and finish images, may allocate meanwhile.
            with fastest_kernels(self._device), torch.cuda.graph(graph, capture_error_mode="thread_local"):
                descend()
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError as error:  # a driver or library that cannot: slower, and as good
            log.warning("this GPU's steps are launched one operation at a time: %s", error)
            self._records = False
        else:
            self._graph = graph
