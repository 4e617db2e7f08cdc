"""The number of threads that torch computes with."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Lets torch compute with one thread on the CPU, in the calling thread and until the block ends.

    How many threads share a convolution decides in which order its products are added up, and so the last
    bits of its results. With one thread they depend on the processor only.
    """
    before = torch.get_num_threads()
    if before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
