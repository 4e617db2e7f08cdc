"""How latents are found, as a user states it. Light: reading a run needs no torch."""

from __future__ import annotations

import contextlib
import math
from typing import Any, Literal

import pydantic

from ncbatch.codec.methods import (
    BITS_BACK,
    CODECS,
    INFERENCE,
    PAPER_STEPS,
    PRESETS,
    Codec,
    Method,
    Rounding,
)

_ANNEALED: dict[str, dict[str, float]] = {
    # tau(t) = min(0.5, 0.5 exp(-1e-3 (t - 700)))
    "sga": {"tau0": 0.5, "annealing_rate": 1e-3, "plateau": 700.0},
    # tau(t) = min(exp(-4e-3 t), 0.2)
    "deterministic-annealing": {"tau0": 0.2, "annealing_rate": 4e-3, "plateau": math.log(5.0) / 4e-3},
}

_ANNEALED["sga+bits-back"] = _ANNEALED["sga"]

MAX_BBVI_STEPS, MAX_BBVI_LEARNING_RATE = 100_000, 0.05
"""At larger rates (by trial, from 0.2 on) inference is chaotic: two machines arrive at other posteriors."""

_TEMPERATURE = ("tau0", "annealing_rate", "plateau")
_UNREFINED = ("amortized", "bits-back", "bits-back+bbvi")
_SGA = ("sga", "sga+bits-back")


def preset_fields(name: str, method: str | None) -> dict[str, Any]:
    """What a preset says of a method: of its refinement, and of its inference where it has one."""
    if method == "bits-back+bbvi":
        return INFERENCE[name]
    return PRESETS[name] | (INFERENCE[name] if method == "sga+bits-back" else {})


class Recipe(pydantic.BaseModel, frozen=True, extra="forbid"):
    """How latents are found: everything besides the model that decides what an image becomes.

    The defaults are the paper's, with the temperature's schedule scaled to the number of steps:
    tau(t) = min(tau0, tau0 exp(-annealing_rate (t - plateau))), where a plateau of 0 is the paper's naive
    schedule. Methods without a temperature have None there.

    noise: factor of sga's Gumbel noise.
    learning_rate, beta1, beta2: of Adam; decay: the rate stays, or falls to 2 % of it along a cosine.
    check_every: steps between two looks at the hard-rounded iterate, of which the best is kept.
    bbvi_steps, bbvi_learning_rate: of the inference of q(z|y_hat) that the decoder repeats; of bits-back.
    """

    method: Method = "sga"
    lmbda: float = pydantic.Field(gt=0, allow_inf_nan=False, description="weight of the MSE on 0..255")
    steps: int = pydantic.Field(PAPER_STEPS, ge=0, le=1_000_000)
    learning_rate: float = pydantic.Field(5e-3, gt=0, le=1)
    seed: int = pydantic.Field(0, ge=0, lt=2**63)
    rounding: Rounding = "atanh"
    noise: float = pydantic.Field(1.0, ge=0, le=10)
    tau0: float | None = pydantic.Field(None, gt=0, le=10)
    annealing_rate: float | None = pydantic.Field(None, ge=0, allow_inf_nan=False)
    plateau: float | None = pydantic.Field(None, ge=0, allow_inf_nan=False)
    decay: Literal["constant", "cosine"] = "constant"
    beta1: float = pydantic.Field(0.9, ge=0, lt=1)
    beta2: float = pydantic.Field(0.999, ge=0, lt=1)
    check_every: int = pydantic.Field(50, gt=0)
    bbvi_steps: int | None = pydantic.Field(None, ge=0, le=MAX_BBVI_STEPS)
    bbvi_learning_rate: float | None = pydantic.Field(None, gt=0, le=MAX_BBVI_LEARNING_RATE)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _fill_in(cls, given: Any) -> Any:
        """The paper's values for what is not given."""
        if not isinstance(given, dict):
            return given
        method, steps = given.get("method", "sga"), given.get("steps", PAPER_STEPS)
        filled: dict[str, Any] = {"learning_rate": 1e-4} if method == "ste" else {}
        if method in _UNREFINED:
            filled["steps"] = 0
        if isinstance(method, str):
            filled |= BITS_BACK.get(method, {})
        with contextlib.suppress(TypeError, ValueError):  # what is no number is said below, by its field
            steps = int(steps)
        if isinstance(steps, int) and steps > 0 and isinstance(method, str):
            scale = PAPER_STEPS / steps
            for name, value in _ANNEALED.get(method, {}).items():
                filled[name] = value * {"annealing_rate": scale, "plateau": 1 / scale}.get(name, 1.0)
        return filled | {name: value for name, value in given.items() if value is not None}

    @pydantic.model_validator(mode="after")
    def _fields_fit_method(self) -> Recipe:
        if (self.method in _UNREFINED) != (self.steps == 0):
            if self.steps == 0:
                raise ValueError(f"steps must be at least 1 for the method {self.method}")
            raise ValueError(f"the method {self.method} does not refine; leave out steps and any preset")
        given = [name for name in _TEMPERATURE if getattr(self, name) is not None]
        if given and self.method not in _ANNEALED:
            raise ValueError(f"the method {self.method} has no temperature; leave out {given[0]}")
        if self.method not in _SGA and (self.rounding != "atanh" or self.noise != 1):
            field = "rounding" if self.rounding != "atanh" else "noise"
            raise ValueError(f"{field} is a setting of the method sga; {self.method} does not have it")
        self._check_inference()
        return self

    def _check_inference(self) -> None:
        for name in ("bbvi_steps", "bbvi_learning_rate"):
            if getattr(self, name) is not None and name not in BITS_BACK.get(self.method, {}):
                raise ValueError(f"the method {self.method} does no inference; leave out {name}")
        if self.method == "bits-back" and self.bbvi_steps:
            raise ValueError(
                "the method bits-back does no inference; use bits-back+bbvi, which bbvi_steps are for"
            )

    @classmethod
    def amortized(cls, lmbda: float) -> Recipe:
        return cls(method="amortized", lmbda=lmbda, steps=0)

    @property
    def refines(self) -> bool:
        return self.method not in _UNREFINED

    @property
    def uses_bits_back(self) -> bool:
        """Whether its images are coded together, in packs."""
        return self.method in BITS_BACK

    @property
    def suffix(self) -> str:
        """Of the names of files with one image."""
        return "ncb"

    def tau(self, step: int) -> float:
        """The temperature of a step (Yang et al. 2020, section 3.2 and the supplement's S2)."""
        if self.tau0 is None or self.annealing_rate is None or self.plateau is None:
            raise ValueError(f"the method {self.method} has no temperature")
        return min(self.tau0, self.tau0 * math.exp(-self.annealing_rate * (step - self.plateau)))

    def learning_rate_at(self, step: int) -> float:
        if self.decay == "constant":
            return self.learning_rate
        return self.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / self.steps)))


_SUFFIXES: dict[Codec, str] = {"jpeg": "jpg", "webp": "webp", "avif": "avif", "hevc": "heic", "bpg": "bpg"}
_LARGEST_BPG_QUANTISER = 51


class ClassicalRecipe(pydantic.BaseModel, frozen=True, extra="forbid"):
    """A file by a classical codec. quality: 0 to 100 as Pillow counts; bpg: quantiser 0 (best) to 51."""

    method: Codec
    quality: int = pydantic.Field(ge=0, le=100)

    @pydantic.model_validator(mode="after")
    def _quantiser(self) -> ClassicalRecipe:
        if self.method == "bpg" and self.quality > _LARGEST_BPG_QUANTISER:
            raise ValueError(f"quality of bpg is its quantiser, 0 to {_LARGEST_BPG_QUANTISER}")
        return self

    @property
    def refines(self) -> bool:
        return False

    @property
    def uses_bits_back(self) -> bool:
        return False

    @property
    def suffix(self) -> str:
        """Of the names of files with one image."""
        return _SUFFIXES[self.method]


def fitting(fields: dict[str, Any]) -> dict[str, Any]:
    """What is said of a variant, without what its method or codec does not have."""
    method = fields.get("method", "sga")
    if method in CODECS:
        unfit = {"lmbda", "model", "preset", *Recipe.model_fields} - {"method"}
    elif method in _UNREFINED:
        unfit = {"preset", *Recipe.model_fields} - {"method", "lmbda", *BITS_BACK.get(method, {})}
        unfit -= {"preset"} if method == "bits-back+bbvi" else set()
    else:
        unfit = {"rounding", "noise"} if method not in _SGA else set()
        unfit |= set() if method in _ANNEALED else set(_TEMPERATURE)
        unfit |= set() if method in BITS_BACK else {"bbvi_steps", "bbvi_learning_rate"}
    if method == "bits-back":
        unfit |= {"bbvi_steps", "bbvi_learning_rate"}
    if method not in CODECS:
        unfit |= {"quality"}
    return {name: value for name, value in fields.items() if name not in unfit}
