"""What a refinement minimises beside the rate: the MSE, MS-SSIM, or a mixture of both."""

from __future__ import annotations

import math

import pydantic
from pydantic import Field

MS_SSIM_SCALE = 1275.0
"""How much 1 - MS-SSIM weighs against the MSE on 0..255 under one lmbda: CompressAI trains each quality of
its models with a lmbda for the MSE and another for 1 - MS-SSIM (0.0018 and 2.40, 0.0035 and 4.58, 0.0067 and
8.73, 0.0130 and 16.64, 0.0250 and 31.73, 0.0483 and 60.50, 0.0932 and 115.37, 0.1800 and 220.00). Their
ratios are 1,222 to 1,333, with this geometric mean."""


class Weighed(pydantic.BaseModel):
    """The field of a recipe that says it.

    Attributes:
        distortion: "mse", "ms-ssim", or "mix:W" with the weight W of MS-SSIM (see
            `codec.refinement.structural`).
    """

    distortion: str = Field(
        "mse",
        description="what is minimised beside the rate: mse; ms-ssim; or mix:W, a mixture with the weight W "
        "of MS-SSIM, such as mix:0.8. lmbda keeps its scale; MS-SSIM needs 161 pixels a side",
        json_schema_extra={"unit": "KIND"},
    )  # fmt: skip

    @pydantic.field_validator("distortion")
    @classmethod
    def _known_distortion(cls, text: str) -> str:
        """One text for each weight, since it is part of the digest."""
        weight = _weight_of_ms_ssim(text)
        return {0.0: "mse", 1.0: "ms-ssim"}.get(weight, f"mix:{weight:g}")

    @property
    def ms_ssim_weight(self) -> float:
        """The share of MS-SSIM in the distortion, 0 to 1."""
        return _weight_of_ms_ssim(self.distortion)


def _weight_of_ms_ssim(text: str) -> float:
    """Of a distortion's text; raises ValueError for any other."""
    if text in ("mse", "ms-ssim"):
        return float(text == "ms-ssim")
    kind, _, number = text.partition(":")
    try:
        weight = float(number)
    except ValueError:
        weight = math.nan
    if kind != "mix" or not 0 <= weight <= 1:
        raise ValueError(f"{text!r} is not mse, ms-ssim, or mix:W with a weight from 0 to 1, such as mix:0.8")
    return weight
