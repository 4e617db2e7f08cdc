"""Which arithmetic a GPU's libraries use, set for a block of code and put back after it.

The switches of torch belong to the process. So that two threads do not put back each other's values, one
thread at a time is in such a block; others wait for it, those that choose a step's kernels or record it
included. What runs beside it is as right as before, since none of it is computed in float32 by these
libraries: recorded steps keep the kernels that they were recorded with, looks take bfloat16 (and hardware
without bfloat16 has no TF32), exact coding parameters float64. On a CPU there is nothing to switch.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_LOCK = threading.RLock()


@contextmanager
def full_float32(device: torch.device) -> Iterator[None]:
    """Float32 with all its bits, and by the same kernels each time.

    By default cuDNN computes float32 convolutions in TF32, which keeps 10 bits of each factor, and some of
    its kernels add up in any order.
    """
    if device.type == "cpu":
        yield
        return
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    with _LOCK:
        switches: list[tuple[Any, str, Any]] = [(cudnn, "deterministic", True), (cudnn, "benchmark", False)]
        if hasattr(cudnn, "conv"):  # since torch 2.9, which refuses the older names beside these
            switches += [
                (module, "fp32_precision", "ieee")
                for module in (cudnn.conv, matmul)
                if module.fp32_precision == "tf32"
            ]
        else:
            switches += [(cudnn, "allow_tf32", False), (matmul, "allow_tf32", False)]
        before = [(module, name, getattr(module, name)) for module, name, _ in switches]
        try:
            for module, name, value in switches:
                setattr(module, name, value)
            yield
        finally:
            for module, name, value in before:
                setattr(module, name, value)


@contextmanager
def fastest_kernels(device: torch.device) -> Iterator[None]:
    """The first time, cuDNN measures which of its kernels is the fastest for a shape."""
    if device.type == "cpu":
        yield
        return
    cudnn = torch.backends.cudnn
    with _LOCK:
        before = cudnn.benchmark
        try:
            cudnn.benchmark = True
            yield
        finally:
            cudnn.benchmark = before
