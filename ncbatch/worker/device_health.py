"""Whether a device still computes, and which errors of its libraries mean that its memory is full.

An error inside a kernel (an illegal address, a failed assertion, memory that does not correct itself) ends a
CUDA context: whatever the process asks of it from then on fails. So an error's own text says little; the
device is asked.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

from ncbatch.errors import first_line

_FULL = (
    "can't allocate",  # torch on a CPU
    "out of memory",  # torch on a GPU, and the CUDA runtime
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",  # cuDNN 9
    "CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
    "NVML_SUCCESS ==",  # torch's allocator, which fails while it composes its message
)


_DRIVER = Path("/proc/driver/nvidia")


def own_device() -> torch.device:
    """The device that this process is to compute on: the GPU that it was given, or else the CPU.

    Raises:
        RuntimeError: it was given a GPU, and CUDA does not find it. On the CPU it would take a hundred times
            as long, and hold the GPU's place in the cluster.
    """
    if torch.cuda.is_available():
        return torch.device("cuda")
    given = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    # A cluster may be told of GPUs that its machines do not have; their drivers tell.
    if given not in ("", "-1", "NoDevFiles") and torch.backends.cuda.is_built() and _DRIVER.exists():
        raise RuntimeError(
            f"the worker was given the GPU {given}, and CUDA finds none: {_why_no_cuda()}; see what "
            "nvidia-smi says on this node, and restart the node or its driver"
        )
    return torch.device("cpu")


def _why_no_cuda() -> str:
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return first_line(error)
    return "it does not say why"


def says_out_of_memory(error: Exception) -> bool:
    """Whether an error means that memory ran out, unless its device is broken."""
    full = isinstance(error, MemoryError | torch.cuda.OutOfMemoryError)
    return full or any(text in str(error) for text in _FULL)


def fault(device: torch.device) -> str | None:
    """Why a device does not compute any more; None: it does."""
    if device.type != "cuda":
        return None
    try:
        torch.cuda.synchronize(device)
        answer = (torch.ones(1, device=device) + 1).item()
    except RuntimeError as error:
        return None if says_out_of_memory(error) else first_line(error)
    return None if answer == 2 else f"it says that 1 + 1 is {answer:g}"
