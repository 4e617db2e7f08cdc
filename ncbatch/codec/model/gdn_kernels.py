"""The kernels of `fused_gdn`, over activations as [pixels, channels]. Importing this imports Triton.

Each program computes a block of pixels for a block of channels; sums are in float32.
"""

import triton
import triton.language as tl


@triton.jit
def forward(x, gamma, beta, out, root, pixels, channels, block: tl.constexpr):  # type: ignore[no-untyped-def]
    """out = x root, root = sqrt(beta + gamma x^2)."""
    pixel = (tl.program_id(0) * block + tl.arange(0, block)).to(tl.int64)[:, None]
    channel = tl.program_id(1) * block + tl.arange(0, block)
    total = tl.zeros((block, block), dtype=tl.float32)
    for first in range(0, channels, block):
        other = first + tl.arange(0, block)
        inside = (pixel < pixels) & (other[None, :] < channels)
        value = tl.load(x + pixel * channels + other[None, :], mask=inside, other=0.0).to(tl.float32)
        weight = tl.load(
            gamma + channel[None, :] * channels + other[:, None],
            mask=(channel[None, :] < channels) & (other[:, None] < channels),
            other=0.0,
        )
        total += tl.dot((value * value).to(weight.dtype), weight, input_precision="ieee")
    offset = tl.load(beta + channel, mask=channel < channels, other=1.0).to(tl.float32)
    norm = tl.sqrt(total + offset[None, :])
    place = pixel * channels + channel[None, :]
    inside = (pixel < pixels) & (channel[None, :] < channels)
    value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + place, (value * norm).to(out.dtype.element_ty), mask=inside)
    tl.store(root + place, norm.to(root.dtype.element_ty), mask=inside)


@triton.jit
def backward(grad, x, root, gamma_transposed, out, pixels, channels, block: tl.constexpr):  # type: ignore[no-untyped-def]
    """out_j = grad_j root_j + x_j times the sum over i of gamma_ij grad_i x_i / root_i."""
    pixel = (tl.program_id(0) * block + tl.arange(0, block)).to(tl.int64)[:, None]
    channel = tl.program_id(1) * block + tl.arange(0, block)
    total = tl.zeros((block, block), dtype=tl.float32)
    for first in range(0, channels, block):
        other = first + tl.arange(0, block)
        inside = (pixel < pixels) & (other[None, :] < channels)
        place = pixel * channels + other[None, :]
        slope = tl.load(grad + place, mask=inside, other=0.0).to(tl.float32)
        value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
        norm = tl.load(root + place, mask=inside, other=1.0).to(tl.float32)
        weight = tl.load(
            gamma_transposed + channel[None, :] * channels + other[:, None],
            mask=(channel[None, :] < channels) & (other[:, None] < channels),
            other=0.0,
        )
        total += tl.dot((slope * value / norm).to(weight.dtype), weight, input_precision="ieee")
    place = pixel * channels + channel[None, :]
    inside = (pixel < pixels) & (channel[None, :] < channels)
    slope = tl.load(grad + place, mask=inside, other=0.0).to(tl.float32)
    value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    norm = tl.load(root + place, mask=inside, other=1.0).to(tl.float32)
    tl.store(out + place, (slope * norm + value * total).to(out.dtype.element_ty), mask=inside)
