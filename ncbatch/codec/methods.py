"""The methods: how an image is encoded, one class for each, with all that the method has.

To add a method, add its class here (with the next free `number`) and to `Learned`, and its relaxation to
`codec.refinement.relaxation`, where mypy misses it. A run's spec, the bitstream's header and the command line
take it from here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal, get_args

import pydantic
from pydantic import Field
from pydantic.fields import FieldInfo

from ncbatch.codec.recipe import (
    INFERENCE_PRESETS,
    PRESETS,
    REFINEMENT_PRESETS,
    AnnealedRecipe,
    BaseRecipe,
    InferringRecipe,
    PackedRecipe,
    Presets,
    RefinedRecipe,
    SgaRecipe,
    UnrefinedRecipe,
    annealing_rate_field,
    learning_rate_field,
    plateau_field,
    tau0_field,
)


class Amortized(UnrefinedRecipe):
    """The encoder network alone, without refinement."""

    number = 0
    method: Literal["amortized"] = "amortized"


class Sga(SgaRecipe):
    """The paper's M1."""

    number = 1
    method: Literal["sga"] = "sga"


class Map(RefinedRecipe):
    """Latents as they are, and rounded at the end: the paper's A1."""

    number = 2
    method: Literal["map"] = "map"


class Ste(RefinedRecipe):
    """Rounded latents, with the gradient of the identity: the paper's A2."""

    number = 3
    method: Literal["ste"] = "ste"
    learning_rate: float = learning_rate_field(1e-4)


class UniformNoise(RefinedRecipe):
    """Latents with noise in place of rounding, as in training: the paper's A3."""

    number = 4
    method: Literal["uniform-noise"] = "uniform-noise"


class DeterministicAnnealing(AnnealedRecipe):
    """The mean under the rounding probabilities, without noise: the paper's A4; tau(t) = min(exp(-4e-3 t),
    0.2).
    """

    number = 5
    method: Literal["deterministic-annealing"] = "deterministic-annealing"
    tau0: float = tau0_field(0.2)
    annealing_rate: float = annealing_rate_field(4e-3)
    plateau: float = plateau_field(math.log(5.0) / 4e-3)


class BitsBack(UnrefinedRecipe, PackedRecipe):
    """Bits-back with the posterior that the encoder network gives: the paper's A6."""

    number = 6
    method: Literal["bits-back"] = "bits-back"
    absent: ClassVar[Mapping[str, Any]] = {**UnrefinedRecipe.absent, "bbvi_steps": 0}

    @classmethod
    def why_not(cls, name: str) -> str:
        """Why the method does not take a field that others have, and what to do."""
        if name in InferringRecipe.model_fields:
            return f"the method bits-back does no inference; use bits-back+bbvi, which {name} is for"
        return super().why_not(name)


class BitsBackBbvi(UnrefinedRecipe, InferringRecipe):
    """Bits-back with a posterior inferred for the encoder network's y: the paper's A5."""

    number = 7
    method: Literal["bits-back+bbvi"] = "bits-back+bbvi"
    presets: ClassVar[Presets] = INFERENCE_PRESETS
    repeated: ClassVar[Mapping[str, int]] = {"bbvi_steps": 2}


class SgaBitsBack(SgaRecipe, InferringRecipe):
    """Bits-back with SGA and a posterior inferred for its y: the paper's M2."""

    number = 8
    method: Literal["sga+bits-back"] = "sga+bits-back"
    presets: ClassVar[Presets] = {
        name: {**REFINEMENT_PRESETS[name], **INFERENCE_PRESETS[name]} for name in PRESETS
    }
    repeated: ClassVar[Mapping[str, int]] = {"steps": 1, "bbvi_steps": 2}

    @pydantic.model_validator(mode="after")
    def _no_target_or_distortion(self) -> SgaBitsBack:
        if self.target is not None:
            raise ValueError("a target is for methods that make a file of each image; use sga, or give lmbda")
        if self.ms_ssim_weight:
            raise ValueError("with bits-back the distortion is the MSE; leave out --distortion, or use sga")
        return self

    def unrefined(self) -> BitsBackBbvi:
        """The recipe with the same inference for the encoder network's y."""
        said = {name: getattr(self, name) for name in BitsBackBbvi.model_fields if name != "method"}
        return BitsBackBbvi(**said)


class ClassicalRecipe(BaseRecipe):
    """A file by a classical codec, to compare with."""

    quality: int = Field(
        ge=0, le=100,
        description="quality of a classical codec, 0 to 100 (of bpg its quantiser, 0 to 51, where 0 is best)",
        json_schema_extra={"unit": "Q", "default": "none: these codecs need one"},
    )  # fmt: skip


class Jpeg(ClassicalRecipe):
    """JPEG 4:2:0."""

    method: Literal["jpeg"] = "jpeg"
    suffix = "jpg"


class WebP(ClassicalRecipe):
    """Lossy WebP."""

    method: Literal["webp"] = "webp"
    suffix = "webp"


class Avif(ClassicalRecipe):
    """AVIF 4:4:4."""

    method: Literal["avif"] = "avif"
    suffix = "avif"


class Hevc(ClassicalRecipe):
    """HEVC intra 4:4:4, by x265."""

    method: Literal["hevc"] = "hevc"
    suffix = "heic"


class Bpg(ClassicalRecipe):
    """BPG 4:4:4, by its own programs."""

    method: Literal["bpg"] = "bpg"
    suffix = "bpg"
    programs = ("bpgenc", "bpgdec")

    @pydantic.field_validator("quality")
    @classmethod
    def _quantiser(cls, quality: int) -> int:
        if quality > 51:
            raise ValueError("of bpg it is the quantiser, 0 to 51")
        return quality


Refined = Sga | Map | Ste | UniformNoise | DeterministicAnnealing | SgaBitsBack
Packed = BitsBack | BitsBackBbvi | SgaBitsBack
Learned = Amortized | Sga | Map | Ste | UniformNoise | DeterministicAnnealing | Packed
Classical = Jpeg | WebP | Avif | Hevc | Bpg
Recipe = Annotated[Learned | Classical, Field(discriminator="method")]
"""How an image is encoded: everything besides the model that decides what it becomes."""


def _by_method(kinds: Any) -> dict[str, Any]:
    return {kind.model_fields["method"].default: kind for kind in get_args(kinds)}


LEARNED: dict[str, type[Learned]] = _by_method(Learned)
CLASSICAL: dict[str, type[Classical]] = _by_method(Classical)
KINDS: dict[str, type[Learned | Classical]] = {**LEARNED, **CLASSICAL}
METHODS, CODECS = tuple(LEARNED), tuple(CLASSICAL)
PACKED_METHODS = tuple(_by_method(Packed))
DEFAULT_METHOD = "sga"


def _all_fields() -> dict[str, FieldInfo]:
    fields: dict[str, FieldInfo] = {}
    for kind in (Sga, *KINDS.values()):  # the first has most of them, in an order that reads well
        for name, field in kind.model_fields.items():
            fields.setdefault(name, field)
    return fields


FIELDS = _all_fields()
"""The fields of all methods by name: type, limits and description."""


def default_of(name: str, methods: Iterable[str] = tuple(KINDS)) -> str:
    """What a field is by default, as a help text says it: where it differs by method, and in which presets.

    Such as "0.005, or 0.0001 for ste (fast: 0.05, best: 0.02)".
    """
    kinds = [KINDS[method] for method in methods if name in KINDS[method].model_fields]
    words: dict[str, list[str]] = {}
    presets: dict[str, None] = {}
    for kind in kinds:
        field = kind.model_fields[name]
        extra = field.json_schema_extra
        told = extra.get("default", field.default) if isinstance(extra, dict) else field.default
        words.setdefault(_plain(told), []).append(kind.model_fields["method"].default)
        for preset, said in getattr(kind, "presets", {}).items():
            if name in said and preset != "paper":
                presets[f"{preset}: {_plain(said[name])}"] = None
    first, *others = words
    text = first + "".join(f", or {word} for {' and '.join(words[word])}" for word in others)
    return text + (f" ({', '.join(presets)})" if presets else "")


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
