"""Whether a device still computes, and which errors of its libraries mean that its memory is full.

An error inside a kernel (an illegal address, a failed assertion, memory that does not correct itself) ends a
CUDA context: whatever the process asks of it from then on fails. So an error's own text says little; the
device is asked.
"""

from __future__ import annotations

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
