"""Integer frequency tables of the discretised Gaussian, identical on every machine.

A float `erf` or `exp` may differ in its last bit between two C libraries, and one differing bit in one
table loses everything behind it in the stream. So the normal distribution function is built once with
Python's big integers, and every table is derived from it by integer arithmetic alone.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

SIGMA_BITS = 8
"""Fractional bits of the fixed-point standard deviation."""

TABLE_BITS = 30
"""Frequencies of one table add up to about 2**TABLE_BITS; the coder keeps 24 bits of them."""

COARSE_BITS = 7
"""Significant bits of a coarse standard deviation."""

_COARSE_MEAN_BITS = 5  # a coarse mean is off by 1/32 of the standard deviation at most
_MOST_SIGMA = (1 << 16) - 1
_GRID_BITS = 10  # the distribution function is tabulated at multiples of 2**-_GRID_BITS ...
_GRID_END = 8  # ... up to here, where the tail is 6e-16
_REACH = 6  # symbols within _REACH standard deviations have a frequency of their own


@lru_cache(maxsize=1)
def _coarse_sigmas() -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """By standard deviation, up to _MOST_SIGMA: what it is coarsened to, and how many bits that has."""
    sigma = np.arange(_MOST_SIGMA + 1)
    dropped = np.maximum(_bit_lengths(sigma) - COARSE_BITS, 0)
    rounded = (sigma + (1 << dropped >> 1)) >> dropped << dropped
    largest = _MOST_SIGMA >> 16 - COARSE_BITS << 16 - COARSE_BITS
    coarsened = np.minimum(rounded, largest).astype(np.int32)
    return coarsened, _bit_lengths(coarsened)


def _bit_lengths(numbers: NDArray[np.integer]) -> NDArray[np.int32]:
    return np.array([number.bit_length() for number in numbers.tolist()], dtype=np.int32)


def coarse(sigma: NDArray[np.int32]) -> NDArray[np.int32]:
    """Standard deviations rounded to COARSE_BITS significant bits, so that few tables are needed.

    Of an image's thousands of tables some hundreds are left. A Gaussian of another scale by the share e costs
    e^2 nats a symbol; e is at most 2^-COARSE_BITS here, so that at most 9e-5 bits are lost, and mostly less.

    Args:
        sigma: in units of 2**-SIGMA_BITS, from 0 to 2**16 - 1; any shape.
    """
    return _coarse_sigmas()[0][sigma]


def coarse_mean(mean: NDArray[np.int32], sigma: NDArray[np.int32]) -> NDArray[np.int32]:
    """Means rounded to a power of two that is at most 1/16 of the standard deviation, or to themselves.

    A mean that is off by the share e of the standard deviation costs e^2 / 2 nats a symbol; e is at most 1/32
    here, so that at most 7e-4 bits are lost, and a fifth of that on average.

    Args:
        mean: in units of 2**-SIGMA_BITS; any shape.
        sigma: as `coarse` gives it, same shape.
    """
    dropped = np.maximum(_coarse_sigmas()[1][sigma] - _COARSE_MEAN_BITS, 0)
    return (mean + (np.int32(1) << dropped >> 1)) >> dropped << dropped


@lru_cache(maxsize=1)
def _half_distribution() -> NDArray[np.int64]:
    """Phi(t) - 1/2 for t = i * 2**-10, i = 0..8192, times 2**30, rounded down; int64[8193].

    Simpson's rule over the density at half steps. The density follows exp(-(i h)^2 / 2), whose ratio of
    neighbours is itself a geometric sequence, so two multiplications a step suffice. 96 fractional bits
    leave the accumulated truncation far below 2**-30. The integral over the grid is scaled to 1/2.
    """
    bits = 96
    one = 1 << bits
    halves = 2 * (_GRID_END << _GRID_BITS)
    step_squared = one >> (2 * (_GRID_BITS + 1))

    def exp_minus(x: int) -> int:  # exp(-x / one) * one for small x, by its Taylor series
        total, power, k = one, one, 0
        while power:
            k += 1
            power = (power * x >> bits) // k
            total += -power if k % 2 else power
        return total

    ratio, ratio_step = exp_minus(step_squared // 2), exp_minus(step_squared)
    density = [one]
    for _ in range(halves):
        density.append((density[-1] * ratio) >> bits)
        ratio = (ratio * ratio_step) >> bits
    integral = [0]
    for i in range(0, halves, 2):
        integral.append(integral[-1] + density[i] + 4 * density[i + 1] + density[i + 2])
    return np.array([(v << (TABLE_BITS - 1)) // integral[-1] for v in integral], dtype=np.int64)


def _distribution(distance: NDArray[np.int64], sigma: NDArray[np.int64]) -> NDArray[np.int64]:
    """(Phi(distance / sigma) - 1/2) * 2**30, linear between grid points; odd in the distance.

    Both in units of 2**-SIGMA_BITS.
    """
    table = _half_distribution()
    fraction_bits = 12
    whole = 1 << fraction_bits
    position = (np.abs(distance) << (_GRID_BITS + fraction_bits)) // sigma
    position = np.minimum(position, (len(table) - 1) * whole)
    index = np.minimum(position >> fraction_bits, len(table) - 2)
    fraction = position - index * whole
    low = table[index]
    upper_half = low + (((table[index + 1] - low) * fraction) >> fraction_bits)
    return np.where(distance < 0, -upper_half, upper_half)


@dataclass(frozen=True)
class GaussianTables:
    """Frequency tables for a set of standard deviations, one after the other in `frequencies`.

    Table i covers the symbols -reach[i]..reach[i] in that order and ends with the escape symbol, so it has
    2 * reach[i] + 2 entries and starts at `start[i]`. Every entry is at least 1.
    """

    reach: NDArray[np.int64]
    start: NDArray[np.int64]
    frequencies: NDArray[np.float64]

    def table(self, index: int) -> NDArray[np.float64]:
        """The frequencies of table `index`, the escape's last; float64[2 * reach + 2]."""
        return self.frequencies[self.start[index] : self.start[index] + 2 * self.reach[index] + 2]


def gaussian_tables(sigma: NDArray[np.int64], offset: NDArray[np.int64] | None = None) -> GaussianTables:
    """Tables of N(offset, sigma^2) integrated over [k - 1/2, k + 1/2].

    Args:
        sigma: positive standard deviations, in units of 2**-SIGMA_BITS; int64[tables].
        offset: means between -1/2 and 1/2 in the same units, zero by default; int64[tables].

    The frequencies are whole numbers held in float64, the type that the coder takes.
    """
    if offset is None:
        offset = np.zeros_like(sigma)
    reach = (sigma * _REACH >> SIGMA_BITS) + 2
    length = 2 * reach + 2
    start = np.concatenate([[0], np.cumsum(length)[:-1]])
    owner = np.repeat(np.arange(len(sigma)), length)
    symbol = np.arange(length.sum()) - start[owner] - reach[owner]
    one, scale = 1 << SIGMA_BITS, sigma[owner]
    lower_edge = symbol * one - one // 2 - offset[owner]
    below = _distribution(lower_edge, scale)
    mass = _distribution(lower_edge + one, scale) - below
    # The entry after the last symbol is the escape: both tails.
    lowest = _distribution(-reach * one - one // 2 - offset, sigma)[owner]
    mass = np.where(symbol > reach[owner], (1 << TABLE_BITS) - (below - lowest), mass)
    return GaussianTables(reach, start, (mass + 1).astype(np.float64))
