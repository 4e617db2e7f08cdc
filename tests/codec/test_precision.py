"""Switches of torch's libraries are put back. They can be set without a GPU, where they mean nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from ncbatch.codec.model.precision import full_float32, without_cudnn

GPU, CPU = torch.device("cuda"), torch.device("cpu")
CUDNN: Any = torch.backends.cudnn
MATMUL: Any = torch.backends.cuda.matmul
NEW = hasattr(CUDNN, "conv")


def tf32() -> tuple[bool, bool]:
    """Whether convolutions and matrix products may use it."""
    if NEW:
        return CUDNN.conv.fp32_precision == "tf32", MATMUL.fp32_precision == "tf32"
    return CUDNN.allow_tf32, MATMUL.allow_tf32


def switches() -> tuple[object, ...]:
    return CUDNN.enabled, CUDNN.deterministic, CUDNN.benchmark, tf32()


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = switches()
    yield
    CUDNN.benchmark = False
    torch.set_float32_matmul_precision("highest")
    assert switches() == before


@pytest.mark.parametrize("matmul", ["highest", "high"])
def test_full_float32_is_for_a_block_only(matmul: str) -> None:
    torch.set_float32_matmul_precision(matmul)
    CUDNN.benchmark = True
    before = switches()
    assert before == (True, False, True, (True, matmul == "high"))
    with pytest.raises(ZeroDivisionError), full_float32(GPU):
        assert switches() == (True, True, False, (False, False))
        with without_cudnn(GPU):
            assert switches() == (False, True, False, (False, False))
            F.conv2d(torch.ones(1, 1, 3, 3), torch.ones(1, 1, 3, 3))  # torch accepts the combination
        assert switches() == (True, True, False, (False, False))
        raise ZeroDivisionError
    assert switches() == before


def test_on_a_cpu_nothing_is_switched() -> None:
    before = switches()
    with full_float32(CPU), without_cudnn(CPU):
        assert switches() == before


@pytest.mark.skipif(not NEW, reason="older releases have one set of names")
def test_a_process_that_uses_the_newer_names_may_code() -> None:
    """`torch.backends.cudnn.flags` raises there."""
    CUDNN.conv.fp32_precision = "ieee"
    try:
        with without_cudnn(GPU):
            assert not CUDNN.enabled
        with full_float32(GPU):
            assert tf32() == (False, False)
    finally:
        CUDNN.conv.fp32_precision = "tf32"


def test_threads_wait_for_each_other() -> None:
    """Or the second would put back what the first had set, for good."""
    inside, leave = threading.Event(), threading.Event()

    def first() -> None:
        with without_cudnn(GPU):
            inside.set()
            leave.wait(60)

    def second() -> None:
        inside.wait(60)
        leave.set()
        with without_cudnn(GPU):
            assert not CUDNN.enabled

    threads = [threading.Thread(target=work) for work in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert CUDNN.enabled
