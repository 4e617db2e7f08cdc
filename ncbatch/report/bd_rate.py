"""Bjontegaard's delta rate: how many more or (negative) fewer bits one R-D curve needs for the same quality.

G. Bjontegaard, "Calculation of average PSNR differences between RD-curves", VCEG-M33, 2001, with ln(rate) as
a function of PSNR. Monotone piecewise cubic Hermite polynomials are what JVET uses today; the cubic fit is
the one of 2001.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import bjontegaard
import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

from ncbatch.report.errors import NoOverlapError

Floats = NDArray[np.float64]
Fit = Literal["pchip", "cubic"]

_SAMPLES = 1001


@dataclass(frozen=True)
class Curve:
    """R-D points, in any order. rate: bits per pixel; quality: PSNR in dB, or MS-SSIM in dB."""

    name: str
    rate: Sequence[float]
    quality: Sequence[float]

    def finite(self) -> Curve:
        """Without points at which every image came back exactly: their quality is infinite."""
        points = [p for p in zip(self.rate, self.quality, strict=True) if np.isfinite(p[1])]
        return Curve(self.name, [rate for rate, _ in points], [quality for _, quality in points])

    def points(self) -> tuple[Floats, Floats]:
        """Rates and qualities, by rising quality; the cheaper of two points of the same quality counts."""
        cheapest: dict[float, float] = {}
        for rate, quality in zip(self.rate, self.quality, strict=True):
            cheapest[quality] = min(rate, cheapest.get(quality, rate))
        qualities = np.array(sorted(cheapest))
        return np.array([cheapest[quality] for quality in qualities.tolist()]), qualities

    def log_rate(self, fit: Fit) -> Callable[[Floats], Floats]:
        """ln(rate) as a function of quality."""
        rates, qualities = self.points()
        if fit == "pchip":
            return PchipInterpolator(qualities, np.log(rates))
        return np.poly1d(np.polyfit(qualities, np.log(rates), 3))


@dataclass(frozen=True)
class Savings:
    """Relative rate difference against quality: the curve whose mean is the BD-rate."""

    quality: Floats
    relative: Floats


def _common(reference: Curve, test: Curve, fit: Fit) -> Floats:
    needed = 2 if fit == "pchip" else 4
    for curve in (reference, test):
        if len(set(curve.quality)) < needed:
            raise NoOverlapError(
                f"{curve.name} has {len(set(curve.quality))} R-D points; a {fit} BD-rate needs {needed}"
            )
    low = max(min(reference.quality), min(test.quality))
    high = min(max(reference.quality), max(test.quality))
    if low >= high:
        raise NoOverlapError(
            f"{test.name} ({min(test.quality):.2f} to {max(test.quality):.2f} dB) and {reference.name} "
            f"({min(reference.quality):.2f} to {max(reference.quality):.2f} dB) have no quality in common"
        )
    return np.linspace(low, high, _SAMPLES)


def savings(reference: Curve, test: Curve, fit: Fit = "pchip") -> Savings:
    """exp(difference of ln rate) - 1 over the common range of quality; negative where `test` needs less.

    Raises:
        NoOverlapError: too few points, or no quality in common.
    """
    reference, test = reference.finite(), test.finite()
    quality = _common(reference, test, fit)
    return Savings(quality, np.expm1(test.log_rate(fit)(quality) - reference.log_rate(fit)(quality)))


def bd_rate(reference: Curve, test: Curve, fit: Fit = "pchip") -> float:
    """The mean over the common range, as a fraction: -0.15 is 15 % fewer bits.

    Raises:
        NoOverlapError: too few points, or no quality in common.
    """
    reference, test = reference.finite(), test.finite()
    _common(reference, test, fit)
    percent = bjontegaard.bd_rate(
        *reference.points(), *test.points(), method=fit, require_matching_points=False, min_overlap=0
    )
    return float(percent) / 100
