"""Where models come from besides a checkpoint file: the package itself and CompressAI's zoo."""

import pickle
import re
from importlib import resources
from pathlib import Path
from urllib.error import URLError

import pydantic
import torch

from ncbatch.codec import checkpoint
from ncbatch.codec.checkpoint import Checkpoint, Kind
from ncbatch.codec.errors import ModelError

ZOO_PREFIX = "compressai:"
ZOO_MODEL = "mbt2018-mean"
FACTS = "models.json"
# CompressAI's documentation, "Models": lambda of the MSE models by quality.
ZOO_LMBDA = (0.0018, 0.0035, 0.0067, 0.0130, 0.0250, 0.0483, 0.0932, 0.1800)


ZOO_CHANNELS = {quality: (128, 192) if quality <= 4 else (192, 320) for quality in range(1, 9)}
"""N and M by quality."""


class Measured(pydantic.BaseModel, frozen=True):
    """Means over photographs, amortized, of real bytes. rd_loss: with the model's own lmbda."""

    photographs: str
    bpp: float
    psnr: float
    rd_loss: float


class Facts(pydantic.BaseModel, frozen=True):
    """What is known of a built-in model besides its weights; written by `benchmarks/ladder.py`.

    steps, seconds: of its own training, which began with the weights of `start_from`.
    """

    digest: str
    steps: int
    seconds: float
    start_from: str
    measured: Measured | None = None


def builtin_facts() -> dict[str, Facts]:
    """By the name of the model."""
    text = (resources.files("ncbatch.models") / FACTS).read_text()
    return pydantic.TypeAdapter(dict[str, Facts]).validate_json(text)


def builtin_models(kind: Kind | None = None) -> dict[str, float]:
    """Names of the models that ship with the package, and the lmbda each was trained with.

    Args:
        kind: only of this kind.

    Raises:
        ModelError: none is of that kind.
    """
    names = (entry.name for entry in resources.files("ncbatch.models").iterdir())
    found = (re.fullmatch(r"((base|bits-back)-(\d+\.\d+))\.safetensors", name) for name in sorted(names))
    models = {match[1]: float(match[3]) for match in found if match and kind in (None, match[2])}
    if not models:
        raise ModelError(f"no model of the kind {kind} is built in; train some and name them by --model")
    return models


def nearest_builtin(lmbda: float, kind: Kind = "base") -> str:
    """The built-in model of a kind trained nearest to `lmbda`, on a logarithmic scale."""
    models = builtin_models(kind)
    return min(models, key=lambda name: max(models[name] / lmbda, lmbda / models[name]))


def load_builtin(name: str) -> Checkpoint:
    known = builtin_models()
    if name not in known:
        raise ModelError(f"no built-in model is called {name!r}; there are: {', '.join(known)}")
    data = (resources.files("ncbatch.models") / f"{name}.safetensors").read_bytes()
    model, facts = checkpoint.parse(data, name), builtin_facts().get(name)
    if facts is not None and facts.digest != model.digest:
        raise ModelError(f"the built-in model {name} is damaged; install ncbatch again")
    return model


def load_zoo(name: str) -> Checkpoint:
    """A model of CompressAI's zoo, `compressai:mbt2018-mean/<quality 1..8>`; downloads its weights.

    Raises:
        ModelError: another name, CompressAI is not installed, or the weights cannot be downloaded.
    """
    match = re.fullmatch(rf"{ZOO_PREFIX}{ZOO_MODEL}/([1-8])", name)
    if not match:
        raise ModelError(
            f"{name!r} is not in the zoo; only {ZOO_PREFIX}{ZOO_MODEL}/<quality 1..8> fits this codec"
        )
    quality = int(match[1])
    try:
        from compressai.zoo import mbt2018_mean  # takes seconds to import, and only this function needs it
    except ImportError as error:
        raise ModelError(
            f"{name} is downloaded by CompressAI, which is not installed; pip install 'ncbatch[zoo]' on "
            "Python 3.12 or older, or `ncbatch convert` its file of weights on any Python"
        ) from error
    try:
        network = mbt2018_mean(quality, metric="mse", pretrained=True)
    except (URLError, OSError) as error:
        raise ModelError(
            f"the weights of {name} could not be downloaded ({error}); go online once, or "
            "fetch them elsewhere and `ncbatch convert` them to a checkpoint file"
        ) from error
    return checkpoint.export(network.state_dict(), lmbda=ZOO_LMBDA[quality - 1], dtype=torch.float32)


_OLD_LIST = re.compile(r"entropy_bottleneck\._(matrix|matrices|bias|biases|factor|factors)\.?(\d)")
_LISTS = {"m": "matrices", "b": "biases", "f": "factors"}


def _current_name(name: str) -> str:
    """A tensor's name in CompressAI today; the zoo's files have older ones, or DataParallel's."""
    name = name.removeprefix("module.")
    old = _OLD_LIST.fullmatch(name)
    return f"entropy_bottleneck.{_LISTS[old[1][0]]}.{old[2]}" if old else name


def convert(path: Path, *, lmbda: float | None = None, dtype: torch.dtype = torch.float16) -> Checkpoint:
    """A checkpoint from a torch file with the weights of a CompressAI `MeanScaleHyperprior`.

    The file holds a state dict, as those of CompressAI's zoo do, or a dict with `state_dict` and perhaps
    `lmbda`. Only tensors are unpickled, never code. CompressAI need not be installed.

    Raises:
        ModelError: unreadable, of another model, or lmbda is nowhere stated.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise ModelError(
            f"{path} is not a torch file of plain tensors: {str(error).splitlines()[0]}"
        ) from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds a {type(content).__name__}, not a state dict")
    state_dict = content.get("state_dict", content)
    lmbda = lmbda or content.get("lmbda") or content.get("lmb")
    if lmbda is None:
        raise ModelError(f"{path} does not say which lmbda it was trained with; name it with --lmbda")
    state_dict = {_current_name(str(name)): tensor for name, tensor in state_dict.items()}
    return checkpoint.export(state_dict, lmbda=float(lmbda), dtype=dtype)
