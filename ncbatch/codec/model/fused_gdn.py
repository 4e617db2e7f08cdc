"""Inverse GDN as two kernels of Triton: one forward, one backward, in the place of about ten.

Separate operations pass over all activations, and memory is what they wait for. The kernels are used where
Triton is there and they give what the separate operations give: this is tried as a transform is built, since
each machine compiles them for itself.
"""

from __future__ import annotations

import functools
import logging
import types
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)

_TOLERANCE = {torch.bfloat16: 0.02, torch.float16: 0.005, torch.float32: 1e-4}
"""Of the largest value. The separate operations round to the type after each of them."""


class FusedInverseGDN(torch.autograd.Function):
    """x * sqrt(beta + gamma x^2); arguments as of `transforms.InverseGDN`."""

    enabled = True
    """Whether it is used at all; benchmarks and tests compare both."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor, gamma_transposed: Tensor) -> Tensor:
        """The value."""
        x = x.contiguous(memory_format=torch.channels_last)
        out, root = torch.empty_like(x), torch.empty_like(x)
        _launch("forward", x, x, gamma, beta, out, root)
        ctx.save_for_backward(x, root, gamma_transposed)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient with respect to x."""
        x, root, gamma_transposed = ctx.saved_tensors
        grad = grads[0].contiguous(memory_format=torch.channels_last)
        out = torch.empty_like(x)
        _launch("backward", x, grad, x, root, gamma_transposed, out)
        return out, None, None, None


def _launch(kernel: str, like: Tensor, *tensors: Tensor) -> None:
    """Runs a kernel over all pixels and blocks of channels of tensors like this one."""
    from triton import cdiv

    batch, channels, height, width = like.shape
    pixels = batch * height * width
    block = 64 if channels > 32 else 32 if channels > 16 else 16
    grid = (cdiv(pixels, block), cdiv(channels, block))
    getattr(_kernels(), kernel)[grid](*tensors, pixels, channels, block)


@functools.cache
def _kernels() -> types.ModuleType:
    """Triton is imported where a GPU is to run it, and nowhere else."""
    from ncbatch.codec.model import gdn_kernels

    return gdn_kernels


def usable(reference: type[torch.autograd.Function], weights: tuple[Tensor, Tensor, Tensor]) -> bool:
    """Whether the kernels work here and give what the separate operations give, gradient included.

    Args:
        reference: which does the same by separate operations.
        weights: gamma, beta and gamma transposed of the layer.
    """
    beta = weights[1]
    if not FusedInverseGDN.enabled:
        return False
    values = torch.linspace(-4, 4, 3 * len(beta) * 35, device=beta.device).sin() * 3
    values = values.view(3, 5, 7, len(beta)).permute(0, 3, 1, 2).to(beta.dtype)
    try:
        found = [_both(kind, values, weights) for kind in (FusedInverseGDN, reference)]
    except Exception as error:  # noqa: BLE001 - whatever a compiler says: slower, and as good
        log.warning("inverse GDN is computed by separate operations here: %s", error)
        return False
    worst = max(
        float((ours - theirs).abs().max() / theirs.abs().max()) for ours, theirs in zip(*found, strict=True)
    )
    if worst > _TOLERANCE[beta.dtype]:
        log.warning("inverse GDN is computed by separate operations here: Triton's is off by %.2g", worst)
    return worst <= _TOLERANCE[beta.dtype]


def _both(kind: Any, values: Tensor, weights: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """The value and the gradient of something of it, in float32."""
    x = values.detach().requires_grad_()
    out = kind.apply(x, *weights)
    out.backward(values.cos())
    assert x.grad is not None
    return out.detach().float(), x.grad.float()
