"""The settings of a training: everything besides the images that decides the weights it arrives at."""

from __future__ import annotations

import math
from typing import Any, Literal

import pydantic

from ncbatch.codec.model.info import ModelKind, Widths
from ncbatch.errors import UsageError, first_problem

LADDER = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08)
"""The seven rates of the paper."""

_HIGH = 0.04  # from here on models are wider

# Of the preset small, from trained weights. At the rates of a training from nothing they are lost: within 200
# steps the loss is twice what it was.
_WARM = {"learning_rate": 4e-4, "muon_learning_rate": 0.003}


def _rate(whose: str, name: str) -> str:
    return (
        f"{whose}'s learning rate; with --start-from and within a ladder {_WARM[name]:g} for the preset small"
    )


Preset = Literal["small", "paper"]
"""small: see `small`, tens of thousands of steps. paper: see `paper`."""


class TrainingSettings(pydantic.BaseModel, frozen=True, extra="forbid"):
    """The settings of a training. They are fixed: resuming under others is refused.

    Attributes:
        n: channels of the transforms and of z.
        m: channels of y.
        widths: channels within g_a and g_s, from the image inwards, where they are not all `n`. Most of the
            arithmetic is done on the largest maps, and most of what a network can learn is in the smallest.
        crop: pixels a side of the crops to train on.
        optimizer: of the convolutions of g_a and g_s; Adam trains everything else.
        learning_rate: Adam's, after `warmup` steps; with the decay "cosine" it ends at 1 % of it.
        muon_learning_rate: Muon's, with the same warm-up and decay.
        synthesis_latents: rounded ones take their gradient straight through; the rate is that of noisy ones
            either way (Minnen and Singh 2020).
        aux_learning_rate: of the quantiles of p(z), which have a loss of their own.
        clip: the largest norm of the gradient; 0 for any.
        start_from: digest of the checkpoint whose weights are the start.
    """

    kind: ModelKind = "base"
    lmbda: float = pydantic.Field(gt=0, allow_inf_nan=False)
    steps: int = pydantic.Field(
        20_000, gt=0,
        description="steps of training; under a constant learning rate a training that is done continues "
        "with more",
    )  # fmt: skip
    n: int = pydantic.Field(
        64, gt=0, le=1024,
        description="channels of the transforms and of z; time grows with its square",
        json_schema_extra={"unit": "CHANNELS"},
    )  # fmt: skip
    m: int = pydantic.Field(
        128, gt=0, le=1024,
        description="channels of the latents y, which limit the quality at high rates",
        json_schema_extra={"unit": "CHANNELS"},
    )  # fmt: skip
    widths: Widths | None = pydantic.Field(
        None,
        description="channels within the analysis and synthesis transforms at a half, a quarter and an "
        "eighth of the resolution, where they are not all --n: few for large maps and many for small ones "
        "learn more in the same time",
        json_schema_extra={"unit": "HALF,QUARTER,EIGHTH", "default": "--n for each"},
    )  # fmt: skip
    synthesis_latents: Literal["noisy", "rounded"] = pydantic.Field(
        "noisy",
        description="what the synthesis is trained on: latents with uniform noise, or rounded ones as a "
        "decoder has, which suits the last steps, from trained weights",
    )  # fmt: skip
    batch_size: int = pydantic.Field(
        8, gt=0,
        description="crops in a step, of all workers together, among whom it must divide evenly",
    )  # fmt: skip
    crop: int = pydantic.Field(
        128, ge=64, multiple_of=64, description="side of the crops to train on, a multiple of 64",
        json_schema_extra={"unit": "PIXELS"},
    )  # fmt: skip
    optimizer: Literal["adam", "muon"] = pydantic.Field(
        "adam",
        description="of the convolutions between image and latents; muon needs a fraction of adam's steps",
    )  # fmt: skip
    learning_rate: float = pydantic.Field(
        8e-4, gt=0, le=1, description=_rate("Adam", "learning_rate"), json_schema_extra={"unit": "RATE"}
    )
    muon_learning_rate: float = pydantic.Field(
        0.02, gt=0, le=1, description=_rate("Muon", "muon_learning_rate"),
        json_schema_extra={"unit": "RATE"},
    )  # fmt: skip
    warmup: int = pydantic.Field(
        200, ge=0, description="steps over which the learning rates rise from 0",
        json_schema_extra={"unit": "STEPS"},
    )  # fmt: skip
    decay: Literal["constant", "cosine"] = pydantic.Field(
        "cosine",
        description="what becomes of the learning rates: they stay, or fall to 1 % along a cosine over all "
        "steps",
    )
    aux_learning_rate: float = pydantic.Field(
        1e-3, gt=0, le=1,
        description="learning rate of the quantiles of p(z), which have a loss of their own",
        json_schema_extra={"unit": "RATE"},
    )  # fmt: skip
    clip: float = pydantic.Field(
        1.0, ge=0, allow_inf_nan=False,
        description="largest norm of the gradient, to which larger ones are scaled down; 0 leaves them as "
        "they are",
        json_schema_extra={"unit": "NORM"},
    )  # fmt: skip
    seed: int = pydantic.Field(0, ge=0, description="seed of crops, noise and first weights")
    start_from: str | None = None

    @pydantic.field_validator("widths")
    @classmethod
    def _none_for_one_width(cls, widths: Widths | None, info: pydantic.ValidationInfo) -> Widths | None:
        """One width has one name, so that a training continues and digests agree however it was given."""
        return None if widths is not None and set(widths) == {info.data.get("n")} else widths

    def share_at(self, step: int) -> float:
        """The share of its learning rate that an optimizer has at a step."""
        warm = min((step + 1) / self.warmup, 1.0) if self.warmup else 1.0
        if self.decay == "constant":
            return warm
        return warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / self.steps)))

    def rate_at(self, step: int) -> float:
        """Adam's learning rate at a step."""
        return self.learning_rate * self.share_at(step)


def small(lmbda: float, kind: ModelKind = "base") -> TrainingSettings:
    """Settings for CPUs: N = 64; M = 128, or 192 for the two highest rates; Muon.

    With 96 channels of y the transforms alone, nothing rounded, leave a mean squared error of 42 on
    photographs (a KLT of 16x16 blocks 66, of 128 channels 41, of 192 channels 16): no rate would help.
    """
    return TrainingSettings(
        kind=kind,
        lmbda=lmbda,
        m=192 if lmbda >= _HIGH else 128,
        optimizer="muon",
        learning_rate=2e-3,
        warmup=20,
    )


def paper(lmbda: float, kind: ModelKind = "base") -> TrainingSettings:
    """The paper's own settings: N = 192, or 256 for the two highest rates; millions of steps at 1e-4."""
    channels = 256 if lmbda >= _HIGH else 192
    millions = {0.001: 1, 0.08: 3}.get(lmbda, 2)
    return TrainingSettings(
        kind=kind, lmbda=lmbda, n=channels, m=channels, steps=millions * 1_000_000,
        crop=256, learning_rate=1e-4, warmup=0, decay="constant", clip=0,
    )  # fmt: skip


def default_of(name: str) -> str:
    """What a field is by default, as a help text says it: by preset, and by rate where it differs."""
    told = {}
    for preset, make in (("small", small), ("paper", paper)):
        values = dict.fromkeys(getattr(make(lmbda), name) for lmbda in LADDER)
        if None in values:
            return ""
        told[preset] = " or ".join(
            f"{v:,}" if isinstance(v, int) else f"{v:g}" if isinstance(v, float) else v
            for v in sorted(values)
        )
    if told["small"] == told["paper"]:
        return told["small"]
    return ", ".join(f"{values} for {preset}" for preset, values in told.items())


def _plain(value: object) -> str:
    return (
        f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else str(value)
    )


def make_settings(preset: Preset, kind: ModelKind, lmbda: float, **given: Any) -> TrainingSettings:
    """A preset with some of its fields set otherwise.

    Raises:
        UsageError: a value is out of range; the message names its flag.
    """
    try:
        if preset == "paper":
            fields = paper(lmbda, kind).model_dump()
        else:
            fields = small(lmbda, kind).model_dump() | (_WARM if given.get("start_from") else {})
        settings = TrainingSettings(**(fields | given))
    except pydantic.ValidationError as error:
        raise UsageError(first_problem(error)) from error
    if settings.optimizer == "adam" and "muon_learning_rate" in given:
        raise UsageError("--muon-learning-rate has no effect under --optimizer adam; leave one of them out")
    return settings
