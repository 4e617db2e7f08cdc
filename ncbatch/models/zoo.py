"""Loads named models: those in the package, and those of CompressAI's zoo."""

import math
import re
from pathlib import Path
from urllib.error import URLError

import torch

from ncbatch.codec.errors import ModelError
from ncbatch.codec.model import checkpoint
from ncbatch.codec.model.checkpoint import Checkpoint
from ncbatch.codec.model.info import read_head
from ncbatch.errors import first_line
from ncbatch.models.catalog import (
    ZOO_LMBDA,
    ZOO_MODEL,
    ZOO_PREFIX,
    builtin_facts,
    builtin_file,
    builtin_models,
)


def load_builtin(name: str) -> Checkpoint:
    """A built-in model, by name.

    Raises:
        ModelError: there is no such model, or its file is damaged.
    """
    known = builtin_models()
    if name not in known:
        raise ModelError(f"no built-in model is called {name!r}; there are: {', '.join(known)}")
    data = builtin_file(name).read_bytes()
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


def _refuse_checkpoint(path: Path, name: str) -> None:
    """Refuses a checkpoint of ours in the place of a torch file.

    `torch.load` may read safetensors files, too, and would take one for weights without an lmbda.
    """
    try:
        with path.open("rb") as file:
            read_head(file, name)
    except (OSError, ModelError):  # none of ours; torch.load says more
        return
    raise ModelError(f"{name} is an ncbatch checkpoint already; use it as it is, with --model {name}")


def convert(
    path: Path, name: str | None = None, *, lmbda: float | None = None, dtype: torch.dtype = torch.float16
) -> Checkpoint:
    """A checkpoint from a torch file with the weights of a CompressAI `MeanScaleHyperprior`.

    The file holds a state dict, as those of CompressAI's zoo do, or a dict with `state_dict` and perhaps
    `lmbda`. Only tensors are unpickled, never code. CompressAI need not be installed.

    Args:
        path: of the file.
        name: what messages call it.
        lmbda: weight of the MSE that the weights were trained with, where the file does not hold it.
        dtype: of the weights in the checkpoint.

    Raises:
        ModelError: the file is unreadable or of another model, or lmbda is nowhere stated.
    """
    name = name or str(path)
    _refuse_checkpoint(path, name)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ModelError(f"{name} cannot be read: {first_line(error)}") from error
    except Exception as error:
        # Of a damaged file, torch raises whatever its unpickler happens upon; where it has words, they advise
        # to load the file all the same.
        raise ModelError(
            f"{name} is not a whole torch file of plain tensors; save the model's state_dict alone with "
            "torch.save, or fetch the file again"
        ) from error
    state_dict = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(state_dict, dict):
        raise ModelError(f"{name} holds a {type(state_dict).__name__}, not a state dict")
    lmbda = lmbda or content.get("lmbda") or content.get("lmb")
    if lmbda is None:
        raise ModelError(
            f"{name} does not hold the lmbda (weight of the MSE) that it was trained with; give it with "
            f"--lmbda (CompressAI's qualities 1 to 8 have {', '.join(map(str, ZOO_LMBDA))})"
        )
    if not isinstance(lmbda, int | float) or not 0 < lmbda < math.inf:
        raise ModelError(
            f"{name} says that its lmbda is {lmbda!r}, which cannot be; give the right one with --lmbda"
        )
    weights = {_current_name(str(key)): value for key, value in state_dict.items() if torch.is_tensor(value)}
    return checkpoint.export(weights, lmbda=float(lmbda), dtype=dtype)
