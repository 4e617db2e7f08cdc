"""What a device is, and which libraries compute on it."""

from __future__ import annotations

import ctypes
import os
import platform
import re
from pathlib import Path

import torch

from ncbatch.codec.model.hyperprior import fast_dtype, fast_hyper_dtype

_TELLING = ("CUBLAS_", "CUDA_VISIBLE_DEVICES", "CUDNN_", "NVIDIA_TF32_OVERRIDE", "ONEDNN_", "ATEN_", "TORCH_")
"""Beginnings of variables of the environment that change what the libraries do."""


def describe(device: torch.device) -> dict[str, str]:
    """A device and the libraries that are loaded for it, for a person to read and to compare."""
    facts = {"device": str(device), "host": platform.node(), "torch": torch.__version__}
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        facts |= {
            "name": torch.cuda.get_device_name(device),
            "capability": f"sm_{major}{minor}",
            "memory": f"{torch.cuda.get_device_properties(device).total_memory / 2**30:.1f} GiB",
            "cuda": torch.version.cuda or torch.version.hip or "unknown",
            "cudnn": str(torch.backends.cudnn.version() or "none"),
            "cublas": cublas_version() or "unknown",
        }
    else:
        facts |= {
            "name": str(torch.cpu.get_capabilities().get("cpu_name") or platform.machine()),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "threads": str(torch.get_num_threads()),
        }
    fast, hyper = _short(fast_dtype(device)), _short(fast_hyper_dtype(device))
    facts |= {
        "refinement": f"g_s {fast}, h_s {hyper}, rates float32",
        "analysis and synthesis": "float32",
        "coding parameters": "float64, exact",
    }
    set_here = {name: value for name, value in sorted(os.environ.items()) if name.startswith(_TELLING)}
    if set_here:
        facts["environment"] = ", ".join(f"{name}={value}" for name, value in set_here.items())
    return facts


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def cublas_version() -> str | None:
    """The version of the cuBLAS that this process has loaded, as it says itself; None where there is none."""
    library = _loaded("libcublas.so")
    if library is None:
        return None
    try:
        ask = ctypes.CDLL(library).cublasGetProperty
    except (OSError, AttributeError):
        return None
    parts = []
    for part in range(3):  # libraryPropertyType: major, minor, patch
        value = ctypes.c_int()
        if ask(part, ctypes.byref(value)):
            return None
        parts.append(str(value.value))
    return ".".join(parts)


def _loaded(name: str) -> str | None:
    """The path of a shared library in this process; None where it is not loaded, or no Linux tells."""
    try:
        maps = Path("/proc/self/maps").read_text()
    except OSError:
        return None
    found = re.search(rf"/\S*/{re.escape(name)}\S*", maps)
    return found[0] if found else None
