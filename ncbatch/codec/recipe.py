"""What recipes are made of: the settings that methods share, each stated once (see `codec.methods` for them).

A field's description is what the command line says of it. Light: `--help`, and reading a run, need no torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import pydantic
from pydantic import Field

from ncbatch.codec.distortions import Weighed
from ncbatch.codec.target import TARGET_FIELDS, Targeted
from ncbatch.errors import UsageError

PAPER_STEPS = 2000

STEPS_BETWEEN_PAUSES = 10
"""Steps between two moments at which a refinement can be looked at, saved or stopped."""

MAX_BBVI_STEPS, MAX_BBVI_LEARNING_RATE = 100_000, 0.05
"""At larger rates (by trial, from 0.2 on) inference is chaotic: two machines arrive at other posteriors."""

LEAST_GAIN = 0.003
"""Of the loss: what an image must gain to count as going on (see `RefinedRecipe.patience`)."""

FEW_PIXELS = 128 * 192
"""Images of fewer take more looks to converge (see `codec.refinement.convergence`)."""

SETTLED = 0.7
"""Share of the steps before which no look counts against an image: a relaxation gains late, while its
temperature and the learning rate fall, and before that the rounded latents say little."""

STORED = {"stored": True}
"""Validation context of what an ncbatch has written: fields that had no effect are passed over."""

Rounding = Literal["atanh", "linear", "cosine", "ssl"]
"""Rounding probabilities of sga: the paper's, and those of SGA+ (see `codec.refinement.relaxation`)."""

Presets = Mapping[str, Mapping[str, Any]]

_SEARCHED: dict[str, Any] = {"rounding": "linear", "decay": "cosine", "beta1": 0.8, "check_every": 10}
REFINEMENT_PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"steps": PAPER_STEPS},
    "fast": {**_SEARCHED, "steps": 300, "learning_rate": 0.05, "noise": 0.45, "patience": 3},
    "best": {**_SEARCHED, "steps": 2000, "learning_rate": 0.02, "noise": 0.8, "patience": 15},
}
"""fast and best were searched for with `benchmarks/presets.py`: less Gumbel noise lets far larger steps
converge, and linear rounding probabilities suit them better."""
INFERENCE_PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"bbvi_steps": 2000, "bbvi_learning_rate": 3e-3},
    "fast": {"bbvi_steps": 100, "bbvi_learning_rate": 0.02},
    "best": {"bbvi_steps": 500, "bbvi_learning_rate": 0.01},
}

PRESETS = tuple(REFINEMENT_PRESETS)

_ABSENT: dict[str, Any] = {
    "steps": 0, "learning_rate": 5e-3, "seed": 0, "rounding": "atanh", "noise": 1.0, "tau0": None,
    "annealing_rate": None, "plateau": None, "decay": "constant", "beta1": 0.9, "beta2": 0.999,
    "check_every": 50, "bbvi_steps": None, "bbvi_learning_rate": None,
}  # fmt: skip
"""What digests say of the fields that a method does not have. Runs were written with all of them once; may
never change, and a new field never joins."""

LATER: dict[str, Any] = {"patience": 0, "distortion": "mse", **dict.fromkeys(TARGET_FIELDS)}
"""Fields that came after runs had been written, each with the value that means nothing: digests leave it out,
so that those runs keep theirs."""


class BaseRecipe(pydantic.BaseModel, frozen=True, extra="forbid"):
    """What all methods share.

    Attributes:
        method: its name.
        suffix: of the names of files with one image, without the dot.
        programs: that have to be on the PATH.
        refines: whether latents are optimised.
        uses_bits_back: whether images are coded together, in packs.
        carries: whether files have room for anything beside the image.
        repeated: the fields that count steps, and how often encoding takes each of those: its decode check
            repeats the inference.
    """

    method: str
    suffix: ClassVar[str]
    programs: ClassVar[tuple[str, ...]] = ()
    refines: ClassVar[bool] = False
    uses_bits_back: ClassVar[bool] = False  # so that images are coded together, in packs
    carries: ClassVar[bool] = False
    repeated: ClassVar[Mapping[str, int]] = {}

    def digested(self) -> dict[str, Any]:
        """What the digest of a recipe is made of."""
        return self.model_dump(mode="json")

    @property
    def total_steps(self) -> int:
        """How many steps of all kinds encoding takes."""
        return sum(getattr(self, name) * times for name, times in self.repeated.items())


class LearnedRecipe(BaseRecipe):
    """A method that codes the latents of a model.

    Attributes:
        lmbda: weight of the MSE on 0..255 against the bits per pixel.
        number: the method's number in bitstreams, which never changes.
        presets: values of its fields by the preset's name.
        absent: what a digest says of fields that the method does not have.
        foreign: the message for a method that is given fields which this class brings in.
    """

    lmbda: float = Field(
        gt=0, allow_inf_nan=False,
        description="weight of the MSE (on 0..255) against the bits per pixel: larger means larger files of "
        "better quality",
        json_schema_extra={
            "unit": "WEIGHT",
            "also": ["lambda"],
            "default": "the one the model was trained with, or 0.01 without a model",
        },
    )  # fmt: skip
    number: ClassVar[int]
    suffix: ClassVar[str] = "ncb"
    carries: ClassVar[bool] = True
    presets: ClassVar[Presets] = {}
    absent: ClassVar[Mapping[str, Any]] = _ABSENT
    foreign: ClassVar[str] = ""
    """What is wrong where another method is given the fields that a class brings in."""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _only_own(cls, given: Any, info: pydantic.ValidationInfo) -> Any:
        """Removes values that are None, and fields of other methods at the value that means nothing."""
        if not isinstance(given, dict):
            return given
        said = {name: value for name, value in given.items() if value is not None}
        without_meaning = {**cls.absent, **LATER}
        for name in [n for n in said if n in {**_ABSENT, **LATER} and n not in cls.model_fields]:
            if said.pop(name) != without_meaning[name] and info.context != STORED:
                raise ValueError(cls.why_not(name))
        return said

    @classmethod
    def why_not(cls, name: str) -> str:
        """Why the method does not take a field that others have, and what to do."""
        owner = next(kind for kind in _OWNERS if name in kind.model_fields)
        return owner.foreign.format(method=cls.model_fields["method"].default, field=name)

    @classmethod
    def preset(cls, name: str) -> Mapping[str, Any]:
        """The values that a preset gives the fields of this method.

        Raises:
            UsageError: the method has no such preset.
        """
        if name in cls.presets:
            return cls.presets[name]
        method = cls.model_fields["method"].default
        if not cls.presets:
            raise UsageError(f"the method {method} does not refine; leave out steps and any preset")
        raise UsageError(f"the preset {name} is not for the method {method}; leave it out, or use sga")

    @property
    def ms_ssim_weight(self) -> float:
        """The share of MS-SSIM in the distortion, 0 to 1."""
        return 0.0

    def digested(self) -> dict[str, Any]:
        """All fields that a recipe can have, with fixed values for those this method does not have."""
        content = {**self.absent, **self.model_dump(mode="json")}
        return {n: v for n, v in content.items() if n not in LATER or v != LATER[n]}


class UnrefinedRecipe(LearnedRecipe):
    """A method that takes the encoder network's latents as they are."""

    steps: ClassVar[int] = 0
    seed: ClassVar[int] = 0


def learning_rate_field(value: float) -> Any:
    """The field `learning_rate` with a method's default."""
    text = "Adam's learning rate in refinement: larger converges sooner, and too large diverges"
    return Field(value, gt=0, le=1, description=text, json_schema_extra={"unit": "RATE"})


class RefinedRecipe(Weighed, Targeted, LearnedRecipe):
    """A method that optimises latents by Adam, under a relaxation of the rounding of its own.

    With a target, each image has an lmbda of its own, and the recipe's says nothing.

    Attributes:
        steps: of Adam.
        learning_rate: Adam's, at the start.
        seed: of the noise.
        decay: "constant", or "cosine" down to 2 % of the learning rate.
        beta1: Adam's.
        beta2: Adam's.
        check_every: steps between two looks at the hard-rounded latents, of which the best are kept.
        patience: looks without a gain after which an image stops; 0: never.
    """

    foreign = "the method {method} does not refine; leave out {field} and any preset"
    refines = True
    repeated: ClassVar[Mapping[str, int]] = {"steps": 1}
    presets: ClassVar[Presets] = {"paper": {}}

    steps: int = Field(
        PAPER_STEPS, ge=1, le=1_000_000, description="steps of refinement; time grows in proportion"
    )
    learning_rate: float = learning_rate_field(5e-3)
    seed: int = Field(
        0, ge=0, lt=2**63, description="seed of the noise in refinement: the same one gives the same files"
    )
    decay: Literal["constant", "cosine"] = Field(
        "constant",
        description="what becomes of the learning rate over the steps: it stays, or falls to 2 % along a "
        "cosine",
    )
    beta1: float = Field(
        0.9, ge=0, lt=1, description="decay rate of Adam's mean of the gradient: a smaller one forgets sooner"
    )
    beta2: float = Field(
        0.999,
        ge=0,
        lt=1,
        description="decay rate of Adam's mean of the squared gradient: a smaller one forgets sooner",
    )
    check_every: int = Field(
        50, gt=0,
        description="steps between two looks at the rounded latents, of which the best are kept: looking "
        "more often finds better ones and takes time",
    )  # fmt: skip
    patience: int = Field(
        0, ge=0,
        description="looks in a row that gain less than 0.3 % after which an image is done (more of them for "
        "images below 128 x 192); they count from 70 % of the steps on, when temperature and learning rate "
        "have come down. 0: every image takes all steps",
        json_schema_extra={"unit": "LOOKS"},
    )  # fmt: skip

    @pydantic.model_validator(mode="after")
    def _no_other_distortion_with_target(self) -> RefinedRecipe:
        if self.target is not None and self.ms_ssim_weight:
            raise ValueError("a target is searched for with the MSE; leave out --distortion, or give lmbda")
        return self

    @property
    def refined_share(self) -> float:
        """Which share of an encoding's steps refinement is."""
        return self.steps / self.total_steps

    def learning_rate_at(self, step: int) -> float:
        """Adam's learning rate at a step."""
        if self.decay == "constant":
            return self.learning_rate
        return self.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / self.steps)))


def tau0_field(value: float) -> Any:
    """The field `tau0` with a method's default."""
    text = "temperature at the start: the lower, the nearer to rounding"
    return Field(value, gt=0, le=10, description=text, json_schema_extra={"unit": "TAU"})


def annealing_rate_field(of_paper: float) -> Any:
    """The field `annealing_rate`; its default is the paper's, scaled from 2000 steps to the method's."""
    return Field(
        default_factory=lambda said: of_paper * (PAPER_STEPS / said.get("steps", PAPER_STEPS)),
        ge=0, allow_inf_nan=False,
        description="the temperature falls by a factor of exp(-C) each step: larger rounds sooner",
        json_schema_extra={"unit": "C", "default": f"{of_paper * PAPER_STEPS:g} / steps"},
    )  # fmt: skip


def plateau_field(of_paper: float) -> Any:
    """The field `plateau`; its default is the paper's, scaled from 2000 steps to the method's."""
    return Field(
        default_factory=lambda said: of_paper * (1 / (PAPER_STEPS / said.get("steps", PAPER_STEPS))),
        ge=0, allow_inf_nan=False,
        description="steps before the temperature starts to fall; 0 is the paper's naive schedule",
        json_schema_extra={
            "unit": "STEPS",
            "default": f"{100 * of_paper / PAPER_STEPS:.0f} % of the steps",
        },
    )  # fmt: skip


class AnnealedRecipe(RefinedRecipe):
    """A method with a temperature: tau(t) = min(tau0, tau0 exp(-annealing_rate (t - plateau))).

    The defaults are the paper's, scaled from its 2000 steps to the number of steps.

    Attributes:
        tau0: the temperature at the start.
        annealing_rate: c in exp(-c (t - plateau)).
        plateau: steps before the temperature falls; 0 is the paper's naive schedule.
    """

    foreign = "the method {method} has no temperature; leave out {field}"

    tau0: float
    annealing_rate: float
    plateau: float

    def tau(self, step: int) -> float:
        """The temperature of a step (Yang et al. 2020, section 3.2 and the supplement's S2)."""
        return min(self.tau0, self.tau0 * math.exp(-self.annealing_rate * (step - self.plateau)))


class SgaRecipe(AnnealedRecipe):
    """Stochastic Gumbel annealing; by default tau(t) = min(0.5, 0.5 exp(-1e-3 (t - 700))).

    Attributes:
        rounding: the rounding probabilities (see `codec.refinement.relaxation`).
        noise: factor of the Gumbel noise; 1 is the paper's.
    """

    foreign = "{field} is a setting of the method sga; {method} does not have it"
    presets: ClassVar[Presets] = REFINEMENT_PRESETS

    tau0: float = tau0_field(0.5)
    annealing_rate: float = annealing_rate_field(1e-3)
    plateau: float = plateau_field(700.0)
    rounding: Rounding = Field(
        "atanh", description="rounding probabilities of sga: the paper's (atanh), or those of SGA+"
    )
    noise: float = Field(
        1.0, ge=0, le=10,
        description="factor of sga's Gumbel noise: less of it converges sooner; 1 is the paper's",
        json_schema_extra={"unit": "FACTOR"},
    )  # fmt: skip


class PackedRecipe(LearnedRecipe):
    """A method that codes z with bits-back, and images together, in packs."""

    uses_bits_back = True
    carries = False

    @property
    def inference(self) -> tuple[int, float]:
        """Steps and learning rate of the inference of q(z|y_hat), which the decoder repeats."""
        return 0, 0.0


class InferringRecipe(PackedRecipe):
    """A method whose posterior q(z|y_hat) is found by black-box variational inference.

    Attributes:
        bbvi_steps: steps of the inference, which the decoder repeats.
        bbvi_learning_rate: Adam's in the inference.
    """

    foreign = "the method {method} does no inference; leave out {field}"

    bbvi_steps: int = Field(
        INFERENCE_PRESETS["paper"]["bbvi_steps"], ge=0, le=MAX_BBVI_STEPS,
        description="steps of bits-back's inference, which encoding does twice and decoding once: more make "
        "smaller files",
    )  # fmt: skip
    bbvi_learning_rate: float = Field(
        INFERENCE_PRESETS["paper"]["bbvi_learning_rate"], gt=0, le=MAX_BBVI_LEARNING_RATE,
        description="learning rate of bits-back's inference: larger converges sooner",
        json_schema_extra={"unit": "RATE"},
    )  # fmt: skip

    @property
    def inference(self) -> tuple[int, float]:
        """Steps and learning rate of the inference of q(z|y_hat), which the decoder repeats."""
        return self.bbvi_steps, self.bbvi_learning_rate


_OWNERS = (RefinedRecipe, AnnealedRecipe, SgaRecipe, InferringRecipe)
"""The classes that bring in fields, the most general first."""
