"""What is behind a model's name, without torch."""

from __future__ import annotations

from pathlib import Path

from ncbatch.codec import catalog
from ncbatch.codec.errors import ModelError
from ncbatch.codec.model_info import Described, describe
from ncbatch.runs.objects import read_object
from ncbatch.store import ObjectNotFound, StoreOptions


def describe_model(name: str, options: StoreOptions) -> Described:
    """What a model says of itself, by a name as `load_model` takes it.

    Raises:
        ModelError: no such model, or not a checkpoint.
    """
    if name.startswith(catalog.ZOO_PREFIX):
        from ncbatch.codec.zoo import load_zoo  # only the weights themselves say what they become here

        model = load_zoo(name)
        return Described(model.info, model.digest)
    if name in catalog.builtin_models():
        return catalog.describe_builtin(name)
    return describe(read_model(name, options), name)


def read_model(name: str, options: StoreOptions) -> bytes:
    """The bytes of a checkpoint's file, by its path or URI.

    Raises:
        ModelError: there is none.
    """
    if "/" not in name and not Path(name).exists():
        known = ", ".join(catalog.builtin_models())
        raise ModelError(f"there is no model {name!r}: neither a file nor built in ({known})")
    try:
        return read_object(name, options)
    except ObjectNotFound as error:
        raise ModelError(f"there is no checkpoint at {name}") from error
