"""Distortion between two 8-bit images."""

import math

import numpy as np
import torch
from pytorch_msssim import ms_ssim as _ms_ssim

from ncbatch.images.pixels import Pixels

_ROWS = 256  # bounds the memory of the differences, whatever the image's size
_CPU = torch.device("cpu")
SMALLEST_SIDE = 161
"""Of an image that MS-SSIM is defined for: below, five scales of an 11-tap window do not fit."""


def mse(a: Pixels, b: Pixels) -> float:
    """Mean squared error over all samples of two images, uint8[height, width, 3] each; on 0..255."""
    total = 0
    for top in range(0, len(a), _ROWS):
        difference = a[top : top + _ROWS].astype(np.int32) - b[top : top + _ROWS]
        total += int(np.einsum("ijk,ijk->", difference, difference, dtype=np.int64))
    return total / a.size


def psnr(mean_squared_error: float) -> float:
    """Peak signal-to-noise ratio of 8-bit images in dB, from the mean squared error; infinite for identical
    images.
    """
    return 10 * math.log10(255**2 / mean_squared_error) if mean_squared_error else math.inf


def ms_ssim(a: Pixels, b: Pixels, device: torch.device = _CPU) -> float | None:
    """Multi-scale SSIM (Wang et al. 2003) of two images, uint8[height, width, 3] each; mean over the
    channels.

    None where a side has under 161 pixels, which are too few for its five scales.

    Args:
        a: one image.
        b: the other.
        device: where it is computed; in float32, which must not be shortened to TF32: variances are small
            differences of large squares.
    """
    if min(a.shape[:2]) < SMALLEST_SIDE:
        return None

    def plane(image: Pixels, channel: int) -> torch.Tensor:
        samples = torch.from_numpy(np.ascontiguousarray(image[None, None, :, :, channel]))
        return samples.to(device).to(torch.float32)

    # One channel at a time: the value is a mean over channels anyway, and the peak is a third.
    values = torch.stack([_ms_ssim(plane(a, c), plane(b, c), data_range=255.0) for c in range(3)])
    return float(sum(values.tolist())) / 3
