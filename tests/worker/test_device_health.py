"""A device that does not compute any more is told from an image that cannot be done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ncbatch.codec.errors import InexactDeviceError
from ncbatch.plan.units import Unit
from ncbatch.worker import device_health, worker
from ncbatch.worker.batches import memory_failure
from ncbatch.worker.device_health import fault, says_out_of_memory
from ncbatch.worker.options import WorkerOptions
from ncbatch.worker.worker import DeviceFailure, GivenBack, Worker, WorkerConfig
from tests.workbench import Workbench

CPU, GPU = torch.device("cpu"), torch.device("cuda")
ILLEGAL = "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be asynchronously"


@pytest.mark.parametrize(
    "text",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.1 GiB",
        "CUDA error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        'NVML_SUCCESS == r INTERNAL ASSERT FAILED at "/c10/cuda/CUDACachingAllocator.cpp":838',
        "[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: you tried ...",
    ],
)
def test_what_says_that_memory_is_full(text: str) -> None:
    assert says_out_of_memory(RuntimeError(text))
    assert memory_failure(RuntimeError(text), CPU).error_class == "out_of_memory"


@pytest.mark.parametrize(
    "text",
    [ILLEGAL, "CUDA error: uncorrectable ECC error encountered", "CUBLAS_STATUS_EXECUTION_FAILED", "bug"],
)
def test_what_does_not(text: str) -> None:
    with pytest.raises(RuntimeError, match=text.splitlines()[0]):
        memory_failure(RuntimeError(text), CPU)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Plays a GPU that answers `synchronize` with an error, as a broken context does, or computes wrongly."""
    ones = torch.ones

    def play(error: Exception | None = None, one: float = 1.0) -> None:
        def synchronize(device: torch.device) -> None:
            if error is not None:
                raise error

        monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
        monkeypatch.setattr(torch, "ones", lambda *size, device: ones(*size) * one)

    return play


def test_a_broken_context_is_a_fault_and_a_full_memory_is_none(gpu: Callable[..., None]) -> None:
    assert fault(CPU) is None
    gpu()
    assert fault(GPU) is None
    gpu(RuntimeError(ILLEGAL))
    assert fault(GPU) == "CUDA error: an illegal memory access was encountered"
    gpu(torch.cuda.OutOfMemoryError("CUDA out of memory"))
    assert fault(GPU) is None
    gpu(one=0.0)
    assert fault(GPU) == "it says that 1 + 1 is 1"


def test_a_broken_device_that_cannot_allocate_is_not_the_images_fault(gpu: Callable[..., None]) -> None:
    """A failed assertion in a kernel shows as CUBLAS_STATUS_ALLOC_FAILED in the next call."""
    error = RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
    gpu()
    assert memory_failure(error, GPU).error_class == "out_of_memory"
    gpu(RuntimeError("CUDA error: device-side assert triggered"))
    with pytest.raises(RuntimeError, match="CUBLAS_STATUS_ALLOC_FAILED"):
        memory_failure(error, GPU)


@pytest.fixture(autouse=True)
def _no_handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ncbatch.signals.at_first", lambda *_: None)


def _worker(local: Workbench) -> Worker:
    return Worker(WorkerConfig(local.spec(), local.corpus, local.output, WorkerOptions()))


def test_a_worker_tells_its_devices_failures_from_bugs(
    local: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raising(error: Exception) -> Any:
        def work(*_: Any) -> None:
            raise error

        return work

    working = _worker(local)
    monkeypatch.setattr(worker, "run_unit", raising(ValueError("a bug")))
    unit = Unit("u", "v", 0, ())
    with pytest.raises(ValueError, match="a bug"):
        working.run_unit(unit, "a", {})
    monkeypatch.setattr(worker, "fault", lambda device: "CUDA error: unspecified launch failure")
    assert working.run_unit(unit, "a", {}) == DeviceFailure(
        "cpu: a bug; then: CUDA error: unspecified launch failure"
    )
    monkeypatch.setattr(worker, "probe_image", raising(InexactDeviceError("does not compute exactly")))
    assert working.probe(unit, "a", "b") == DeviceFailure("does not compute exactly")


def test_a_worker_does_not_start_on_a_broken_device(
    local: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "fault", lambda device: "CUDA error: no device")
    with pytest.raises(RuntimeError, match="the device cpu does not compute: CUDA error: no device"):
        _worker(local)


@pytest.mark.parametrize("given", ["0", "GPU-5c89", ""])
@pytest.mark.parametrize("has_driver", [True, False])
def test_a_worker_whose_gpu_is_gone_does_not_go_on_as_a_cpu(
    local: Workbench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: str, has_driver: bool
) -> None:
    """Where the machine has one: a cluster may be told of GPUs that do not exist, as tests do."""

    def no_driver_answers() -> None:
        raise RuntimeError("No CUDA GPUs are available")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", no_driver_answers)
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.setattr(device_health, "_DRIVER", tmp_path if has_driver else tmp_path / "none")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    if given and has_driver:
        with pytest.raises(RuntimeError, match=f"the GPU {given}, and CUDA finds none: No CUDA GPUs"):
            _worker(local)
    else:
        assert _worker(local).ready().device == "cpu"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_has_no_fault() -> None:
    assert device_health.fault(GPU) is None


def test_a_worker_that_is_to_end_takes_no_unit(local: Workbench) -> None:
    worker = _worker(local)
    worker._workspace.leaving.set()
    unit = Unit("u", "v", 0, ())
    assert worker.run_unit(unit, "a-1", {}) == GivenBack() == worker.probe(unit, "a-1", "x.png")
