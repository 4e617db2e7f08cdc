"""Known-answer test: does a device add up the products of the exact h_s exactly?

In float64 it has to, by IEEE 754. But libraries may compute float64 in other ways: cuBLAS can emulate it on
tensor cores, from a size on and with as many bits as it is told to keep. A device that is only nearly exact
decodes most images and silently spoils some; so every sum is compared here, before it is rounded, with what
a CPU makes of the same integers.
"""

from __future__ import annotations

import threading

import torch
from torch import Tensor

from ncbatch.codec.errors import InexactDeviceError
from ncbatch.codec.model.checkpoint import Checkpoint
from ncbatch.codec.model.exact_hyper_synthesis import (
    MAX_ACTIVATION,
    MAX_Z_SYMBOL,
    UNIT,
    UPSAMPLES,
    ExactHyperSynthesis,
)

_HEIGHT, _WIDTH = 8, 12
"""Hyper-latents of a 768x512 image: kernels are chosen by size."""

_ADVICE = (
    "cuBLAS may be emulating FP64: set CUBLAS_EMULATE_DOUBLE_PRECISION=0, or install the CUDA libraries that "
    "torch names; or hide the device with CUDA_VISIBLE_DEVICES= to compute on the CPU"
)

_TRUSTED = ("cpu",)
"""Kinds of devices that others are held to."""

_proven: set[tuple[str, str]] = set()
_lock = threading.Lock()


def prove(exact: ExactHyperSynthesis, checkpoint: Checkpoint) -> None:
    """Compares a device with the CPU, once per process, model and device.

    Raises:
        InexactDeviceError: they differ.
    """
    key = (checkpoint.digest, str(exact.device))
    if exact.device.type in _TRUSTED or key in _proven:
        return
    with _lock:
        compare(exact, checkpoint)
        _proven.add(key)


def compare(exact: ExactHyperSynthesis, checkpoint: Checkpoint) -> None:
    """Compares every layer's sums, and mu and sigma, with those of the CPU's float64.

    Takes the CPU about a second for N = 192 and M = 320, and a quarter of one for N = 64 and M = 128.

    Raises:
        InexactDeviceError: they differ.
    """
    layers = checkpoint.integer_layers()
    reference = ExactHyperSynthesis(layers, torch.device("cpu"))
    height, width = _HEIGHT, _WIDTH
    for index, upsamples in enumerate(UPSAMPLES):
        channels = layers[index].weight.shape[0 if upsamples else 1]
        x = _integers((1, channels, height, width), MAX_ACTIVATION).double()
        _require_same(
            exact.sums(index, x.to(exact.device)), reference.sums(index, x), exact.device, f"layer {index}"
        )
        if upsamples:
            height, width = 2 * height, 2 * width
    # Two images, as of a batch, and small symbols, as of a photograph: large ones would only be clamped.
    z_hat = _integers((2, checkpoint.info.n, 2, 3), 8 * UNIT)
    z_hat[1, :, 0, 0] *= MAX_Z_SYMBOL // 8
    for name, got, expected in zip(
        ("mu", "sigma"), exact(z_hat.to(exact.device)), reference(z_hat), strict=True
    ):
        _require_same(got, expected, exact.device, name)


def _integers(shape: tuple[int, ...], limit: int) -> Tensor:
    """Scattered integers from -limit to limit, every eighth of them below 16, as int32.

    Beside large factors the small ones are lost where too few bits are kept.
    """
    count = torch.arange(torch.Size(shape).numel(), dtype=torch.int64)
    scattered = (count + 1) * 0x9E3779B1 % 2**32 * 0x5EBCA6B % 2**32 >> 4  # the low bits have short periods
    values = scattered % (2 * limit + 1) - limit
    return torch.where(count % 8 == 0, values % 31 - 15, values).view(shape).to(torch.int32)


def _require_same(got: Tensor, expected: Tensor, device: torch.device, what: str) -> None:
    wrong = int((got.cpu() != expected).sum())
    if wrong:
        raise InexactDeviceError(
            f"the device {_name(device)} does not compute exactly: {what} of the integer h_s has {wrong} "
            f"wrong values of {expected.numel()}, so files would not decode elsewhere; {_ADVICE}"
        )


def _name(device: torch.device) -> str:
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)
