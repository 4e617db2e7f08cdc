"""How latents are found, as a user states it. Light: reading a run needs no torch."""

from __future__ import annotations

from typing import Literal

import pydantic


class Recipe(pydantic.BaseModel, frozen=True, extra="forbid"):
    """How latents are found: everything besides the model that decides what an image becomes."""

    method: Literal["amortized", "sga"] = "sga"
    lmbda: float = pydantic.Field(gt=0, allow_inf_nan=False, description="weight of the MSE on 0..255")
    steps: int = pydantic.Field(2000, ge=0, le=1_000_000)
    learning_rate: float = pydantic.Field(5e-3, gt=0, le=1)
    seed: int = pydantic.Field(0, ge=0, lt=2**63)

    @pydantic.model_validator(mode="after")
    def _steps_fit_method(self) -> Recipe:
        if (self.method == "amortized") != (self.steps == 0):
            raise ValueError("steps must be 0 for the method amortized and at least 1 for every other")
        return self

    @property
    def refines(self) -> bool:
        return self.method != "amortized"
