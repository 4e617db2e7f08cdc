"""What a recipe may ask for in the place of lmbda: a quality or a size of each image."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import pydantic
from pydantic import Field

Measure = Literal["psnr", "bpp", "bytes", "ssim"]

_RATES = ("bpp", "bytes")
_RATE_TOLERANCE, _DB_TOLERANCE = 0.01, 0.05
_WORD = 4
"""Bytes by which files grow: a target in bytes can be met no better."""
_BEST_DB = 100.0
"""Stands for the infinite quality of an image that came back exactly."""


@dataclass(frozen=True)
class Measured:
    """What an encoding came to. ms_ssim: None of an image that is too small for it."""

    bytes: int
    pixels: int
    psnr: float
    ms_ssim: float | None


@dataclass(frozen=True)
class Target:
    """A quality or a size that an image is to have.

    Levels are what a search compares: logarithms of rates, and decibels of qualities, since both grow nearly
    linearly with the logarithm of lmbda.

    Attributes:
        measure: what is asked for.
        value: how much of it: dB, bits per pixel, bytes of the file, or MS-SSIM, plain below 1 and in dB
            (-10 log10(1 - MS-SSIM)) from 1 on.
    """

    measure: Measure
    value: float

    @property
    def is_rate(self) -> bool:
        """Whether it asks for a size."""
        return self.measure in _RATES

    @property
    def level(self) -> float:
        """The level that is asked for."""
        if self.is_rate:
            return math.log(self.value)
        return self.value if self.measure == "psnr" or self.value >= 1 else decibels(self.value)

    @property
    def tolerance(self) -> float:
        """By how much the level of an encoding that meets the target may differ."""
        if self.measure == "bytes":
            return max(_RATE_TOLERANCE, _WORD / self.value)
        return _RATE_TOLERANCE if self.is_rate else _DB_TOLERANCE

    def level_of(self, measured: Measured) -> float:
        """The level of an encoding."""
        return self.level_of_value(self.came_of(measured))

    def level_of_value(self, value: float) -> float:
        """The level of a value in the unit of the target's."""
        if self.is_rate:
            return math.log(value)
        return min(decibels(value) if self.measure == "ssim" and self.value < 1 else value, _BEST_DB)

    def came_of(self, measured: Measured) -> float:
        """What an encoding came to, in the unit of the target's value."""
        if self.measure == "bytes":
            return float(measured.bytes)
        if self.measure == "bpp":
            return measured.bytes * 8 / measured.pixels
        if self.measure == "psnr":
            return measured.psnr
        if measured.ms_ssim is None:
            raise ValueError("the image is too small for MS-SSIM; refuse it before it is encoded")
        return measured.ms_ssim if self.value < 1 else decibels(measured.ms_ssim)

    def is_met_by(self, measured: Measured) -> bool:
        """Whether an encoding is within the tolerance."""
        return abs(self.level_of(measured) - self.level) <= self.tolerance

    def shown(self, value: float) -> str:
        """A value of the measure, with its name and unit."""
        if self.measure == "bytes":
            return f"{value:,.0f} bytes"
        if self.measure == "bpp":
            return f"{value:.4g} bpp"
        if self.measure == "psnr":
            return f"a PSNR of {value:.2f} dB"
        return f"an MS-SSIM of {value:.5g}" if self.value < 1 else f"an MS-SSIM of {value:.2f} dB"


@dataclass(frozen=True)
class Sought:
    """How an image's encoding came to its target.

    Attributes:
        target: what was asked for.
        came: what came, in the unit of the target's value.
        met: whether that is within the tolerance.
        model_digest: of the model by which,
        lmbda: with which, and
        tries: after how many values of lmbda; None of an encoding that was found.
    """

    target: Target
    came: float
    met: bool
    model_digest: str
    lmbda: float | None
    tries: int | None

    @staticmethod
    def of(
        target: Target, measured: Measured, digest: str, lmbda: float | None = None, tries: int | None = None
    ) -> Sought:
        """What was sought, of an encoding."""
        return Sought(target, target.came_of(measured), target.is_met_by(measured), digest, lmbda, tries)

    def measured_again(self, measured: Measured) -> Sought:
        """The same of a file that has changed since."""
        return replace(self, came=self.target.came_of(measured), met=self.target.is_met_by(measured))

    @property
    def note(self) -> str | None:
        """What a user has to know of a target that is not met."""
        if self.met:
            return None
        asked, came = self.target.shown(self.target.value), self.target.shown(self.came)
        return f"the target of {asked} was not met; the nearest that was found is {came}"


def decibels(ms_ssim: float) -> float:
    """-10 log10(1 - MS-SSIM)."""
    return min(-10 * math.log10(1 - ms_ssim), _BEST_DB) if ms_ssim < 1 else _BEST_DB


_FIELDS: dict[str, Measure] = {
    "target_psnr": "psnr",
    "target_bpp": "bpp",
    "target_bytes": "bytes",
    "target_ssim": "ssim",
}
TARGET_FIELDS = tuple(_FIELDS)


class Targeted(pydantic.BaseModel):
    """The fields by which a recipe asks for a target; at most one of them is given.

    Attributes:
        target_psnr: in dB.
        target_bpp: bits per pixel of the file.
        target_bytes: length of the file.
        target_ssim: MS-SSIM, plain below 1, in dB from 1 on.
    """

    target_psnr: float | None = Field(
        None, gt=0, le=100,
        description="PSNR that every image is to have, in the place of --lmbda, which is searched for image "
        "by image; met within 0.05 dB",
        json_schema_extra={"unit": "DB", "default": "none"},
    )  # fmt: skip
    target_bpp: float | None = Field(
        None, gt=0, le=100,
        description="bits per pixel that every image's file is to have, in the place of --lmbda; met within "
        "1 %",
        json_schema_extra={"unit": "BPP", "default": "none"},
    )  # fmt: skip
    target_bytes: int | None = Field(
        None, ge=1, le=2**40,
        description="bytes that every image's file is to have, in the place of --lmbda; met within 1 %, "
        "above or below",
        json_schema_extra={"unit": "BYTES", "default": "none"},
    )  # fmt: skip
    target_ssim: float | None = Field(
        None, gt=0, le=60,
        description="MS-SSIM that every image is to have, in the place of --lmbda: plain below 1, such as "
        "0.98, and in dB from 1 on, such as 17 (-10 log10(1 - MS-SSIM)); met within 0.05 dB",
        json_schema_extra={"unit": "SSIM", "default": "none"},
    )  # fmt: skip

    @pydantic.model_validator(mode="after")
    def _one_target(self) -> Targeted:
        given = [name for name in _FIELDS if getattr(self, name) is not None]
        if len(given) > 1:
            one, other = (_FIELDS[name] for name in given[:2])
            raise ValueError(f"targets of {one} and of {other} cannot both be met; give one of them")
        if self.target_ssim == 1:
            raise ValueError("a target of 1 for MS-SSIM is a lossless image; give less, or dB above 1")
        return self

    @property
    def target(self) -> Target | None:
        """What is asked for in the place of lmbda, if anything is."""
        for name, measure in _FIELDS.items():
            if (value := getattr(self, name)) is not None:
                return Target(measure, float(value))
        return None
