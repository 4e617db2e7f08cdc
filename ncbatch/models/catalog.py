"""What is known of the named models (built-in ones and CompressAI's) without loading any."""

from __future__ import annotations

import re
from importlib import resources
from typing import TYPE_CHECKING

import pydantic

from ncbatch.codec.errors import ModelError
from ncbatch.codec.model.info import Described, ModelKind, describe, read_head

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

ZOO_PREFIX = "compressai:"
ZOO_MODEL = "mbt2018-mean"
FACTS = "models.json"
# CompressAI's documentation, "Models": lambda of the MSE models by quality.
ZOO_LMBDA = (0.0018, 0.0035, 0.0067, 0.0130, 0.0250, 0.0483, 0.0932, 0.1800)


ZOO_CHANNELS = {quality: (128, 192) if quality <= 4 else (192, 320) for quality in range(1, 9)}
"""N and M by quality."""


class Measured(pydantic.BaseModel, frozen=True):
    """Means over images of the amortized encodings, on real bytes.

    Attributes:
        photographs: which images.
        bpp: bits per pixel.
        psnr: in dB.
        rd_loss: bits per pixel + lmbda * MSE, with the model's own lmbda.
    """

    photographs: str
    bpp: float
    psnr: float
    rd_loss: float


class Facts(pydantic.BaseModel, frozen=True):
    """What is known of a built-in model besides its weights; written by `benchmarks/ladder.py`.

    Attributes:
        digest: of the checkpoint.
        steps: of its own training.
        seconds: that its own training took.
        start_from: the model with whose weights its training began.
        measured: how well it codes.
    """

    digest: str
    steps: int
    seconds: float
    start_from: str
    measured: Measured | None = None


def builtin_facts() -> dict[str, Facts]:
    """What is known of the built-in models, by their names."""
    text = (resources.files("ncbatch.models") / FACTS).read_text()
    return pydantic.TypeAdapter(dict[str, Facts]).validate_json(text)


def builtin_file(name: str) -> Traversable:
    """The file of a built-in model's checkpoint."""
    return resources.files("ncbatch.models") / f"{name}.safetensors"


def describe_builtin(name: str) -> Described:
    """What a built-in model's file says of itself; its tensors are checked when it is loaded."""
    with builtin_file(name).open("rb") as file:
        info, written = read_head(file, name)
    facts = builtin_facts().get(name)
    digest = written or (facts and facts.digest)
    return Described(info, digest) if digest else describe(builtin_file(name).read_bytes(), name)


def builtin_models(kind: ModelKind | None = None) -> dict[str, float]:
    """The names of the models that ship with the package, and the lmbda that each was trained with.

    Args:
        kind: lists this kind only.

    Raises:
        ModelError: there is none of that kind.
    """
    names = (entry.name for entry in resources.files("ncbatch.models").iterdir())
    found = (re.fullmatch(r"((base|bits-back)-(\d+\.\d+))\.safetensors", name) for name in sorted(names))
    models = {match[1]: float(match[3]) for match in found if match and kind in (None, match[2])}
    if not models:
        raise ModelError(f"no model of the kind {kind} is built in; train some and name them by --model")
    return models


def nearest_builtin(lmbda: float, kind: ModelKind = "base") -> str:
    """The built-in model of a kind trained nearest to `lmbda`, on a logarithmic scale."""
    models = builtin_models(kind)
    return min(models, key=lambda name: max(models[name] / lmbda, lmbda / models[name]))
