"""Settings of the process's memory allocator that suit the refinement loop."""

from __future__ import annotations

import ctypes
import sys

# Names and values of glibc's <malloc.h>.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_MMAP_THRESHOLD = 32 << 20
_KEPT = 1 << 30


def keep_freed_memory() -> None:
    """Lets the process keep up to 1 GiB that it has freed, where the C library is glibc.

    Every step allocates and frees the same activations of some ten megabytes. By default glibc gives them
    back to the kernel each time, and the page faults of getting them again take a third of the step.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
        mallopt(_M_TRIM_THRESHOLD, _KEPT)
