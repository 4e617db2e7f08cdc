"""q(z|y_hat) in fixed point, so that encoder and decoder code with the same one.

Both compute its parameters in floating point, each on its own machine, and snap them to a coarse grid. A
parameter that lies so near to the middle between two grid points that the decoder might snap it to the wrong
one is corrected: the encoder lists it with the last bit of its choice.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ncbatch.codec.errors import BitstreamError, DivergedError, PosteriorMismatchError
from ncbatch.codec.gaussian_tables import SIGMA_BITS
from ncbatch.codec.model.exact_hyper_synthesis import FINE_STEP, MAX_Z_SYMBOL, UNIT

_MEAN_STEP = 1 / 64
_LOG_VARIANCE_STEP = 1 / 4  # a standard deviation is off by 6 % at most, which costs 0.002 bits on average
_LOG_VARIANCE_END = 24  # steps: standard deviations from 0.05 to 20
_MARGIN = 2.0**-13  # of a step. Repeated inference differs by far less; one parameter in 4,096 is listed.

_GRID = UNIT // FINE_STEP  # points of the fine grid per unit of z
_MEAN_TO_FIXED = round(_GRID * _MEAN_STEP * (1 << SIGMA_BITS))
# No entry lies near enough to a half for the last bit of an exponential to matter.
_SIGMAS = np.array(
    [round(_GRID * (1 << SIGMA_BITS) * math.exp(k * _LOG_VARIANCE_STEP / 2))
     for k in range(-_LOG_VARIANCE_END, _LOG_VARIANCE_END + 1)],
    dtype=np.int32,
)  # fmt: skip

Corrections = tuple[tuple[int, int], ...]
"""(index, last bit) of parameters near to a boundary; means first, then log-variances."""


@dataclass(frozen=True)
class Posterior:
    """The parameters of q(z|y_hat) of one image, snapped to their grids.

    Attributes:
        mean: int32[N, h, w], in steps of 1/64.
        log_variance: int32[N, h, w], in steps of 1/4.
    """

    mean: NDArray[np.int32]
    log_variance: NDArray[np.int32]

    @property
    def fixed_mean(self) -> NDArray[np.int32]:
        """The mean in points of the fine grid of z, with SIGMA_BITS fractional bits; int32[N, h, w]."""
        return self.mean * np.int32(_MEAN_TO_FIXED)

    @property
    def fixed_sigma(self) -> NDArray[np.int32]:
        """The standard deviation in the units of `fixed_mean`; int32[N, h, w]."""
        return _SIGMAS[self.log_variance + _LOG_VARIANCE_END]

    @property
    def real(self) -> tuple[Tensor, Tensor]:
        """Mean and log-variance in units of z, float64."""
        mean, log_variance = (torch.from_numpy(a.astype(np.float64)) for a in (self.mean, self.log_variance))
        return mean * _MEAN_STEP, log_variance * _LOG_VARIANCE_STEP

    @property
    def checksum(self) -> int:
        """CRC-32 of the parameters, by which a decoder notices that it inferred others."""
        return zlib.crc32(self.mean.astype("<i4").tobytes() + self.log_variance.astype("<i4").tobytes())


def snap(mean: Tensor, log_variance: Tensor) -> tuple[Posterior, Corrections]:
    """Rounds the parameters to their grids: what the encoder does.

    Args:
        mean: float64[N, h, w], in units of z.
        log_variance: float64[N, h, w].

    Returns:
        The posterior, and corrections of those parameters that a decoder might round to the other side.

    Raises:
        DivergedError: a parameter is not finite.
    """
    steps = _in_steps(mean, log_variance)
    if not np.isfinite(steps).all():
        raise DivergedError("the inference of the posterior diverged; use a smaller bbvi_learning_rate")
    nearest = np.rint(steps)
    doubtful = np.flatnonzero(0.5 - np.abs(steps - nearest) < _MARGIN)
    corrections = tuple((int(i), int(nearest[i]) & 1) for i in doubtful)
    return _posterior(nearest, tuple(mean.shape)), corrections


def snap_corrected(mean: Tensor, log_variance: Tensor, corrections: Corrections) -> Posterior:
    """Rounds the parameters to the encoder's grid points: what the decoder does.

    The result is the encoder's posterior if the parameters differ from the encoder's by less than the margin.

    Args:
        mean: float64[N, h, w], in units of z.
        log_variance: float64[N, h, w].
        corrections: as `snap` returned them to the encoder.

    Raises:
        PosteriorMismatchError: a parameter is not finite.
        BitstreamError: a correction names no parameter.
    """
    steps = _in_steps(mean, log_variance)
    if not np.isfinite(steps).all():
        raise PosteriorMismatchError("inference of the posterior diverges here; at the encoder it did not")
    nearest = np.rint(steps)
    for index, last_bit in corrections:
        if index >= len(steps):
            raise BitstreamError("the pack corrects a parameter that does not exist; it is damaged")
        if int(nearest[index]) & 1 != last_bit:
            nearest[index] += 1 if steps[index] > nearest[index] else -1
    return _posterior(nearest, tuple(mean.shape))


def _in_steps(mean: Tensor, log_variance: Tensor) -> NDArray[np.float64]:
    """All parameters in one row, in steps of their grids, clamped to their ranges."""
    means = mean.clamp(-MAX_Z_SYMBOL, MAX_Z_SYMBOL) / _MEAN_STEP
    end = float(_LOG_VARIANCE_END)
    log_variances = (log_variance / _LOG_VARIANCE_STEP).clamp(-end, end)
    return torch.cat([means.reshape(-1), log_variances.reshape(-1)]).cpu().numpy()


def _posterior(steps: NDArray[np.float64], shape: tuple[int, ...]) -> Posterior:
    means, log_variances = np.split(steps.astype(np.int32), 2)
    return Posterior(means.reshape(shape), log_variances.reshape(shape))
