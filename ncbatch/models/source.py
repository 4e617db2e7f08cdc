"""Finds what a model's name stands for, without torch."""

from __future__ import annotations

import contextlib
from pathlib import Path

from ncbatch.codec.errors import ModelError
from ncbatch.codec.model.info import Described, describe
from ncbatch.models import catalog
from ncbatch.store import ObjectNotFound, StoreError, StoreOptions
from ncbatch.store.objects import read_object

TRAINED = "model.safetensors"
"""What a training calls its checkpoint, in its output folder."""

_LISTED = 8


def describe_model(name: str, options: StoreOptions) -> Described:
    """What a model says of itself, by a name as `load_model` takes it.

    Raises:
        ModelError: no such model, or not a checkpoint.
    """
    if name.startswith(catalog.ZOO_PREFIX):
        from ncbatch.models.zoo import load_zoo  # only the weights themselves say what they become here

        model = load_zoo(name)
        return Described(model.info, model.digest)
    if name in catalog.builtin_models():
        return catalog.describe_builtin(name)
    return describe(read_model(name, options), name)


def read_model(name: str, options: StoreOptions) -> bytes:
    """The bytes of a checkpoint's file.

    Args:
        name: path or URI of the file, or of the output folder of a training.
        options: how to reach an S3 server.

    Raises:
        ModelError: there is none.
    """
    if "/" not in name and not Path(name).exists():
        known = ", ".join(catalog.builtin_models())
        raise ModelError(f"there is no model {name!r}: neither a file nor built in ({known})")
    file = f"{name.rstrip('/')}/{TRAINED}"  # where the name is a training's folder
    try:
        return read_object(file if name.endswith("/") or Path(name).is_dir() else name, options)
    except ObjectNotFound as error:
        with contextlib.suppress(ObjectNotFound, StoreError):
            return read_object(file, options)
        inside = _checkpoints_in(name)
        if inside:
            raise ModelError(f"--model {name} is a folder; name one of its models: {inside}") from error
        raise ModelError(f"there is no checkpoint at {name}, nor a {TRAINED} in it") from error


def _checkpoints_in(name: str) -> str:
    """The first few checkpoints below a local folder, for a message."""
    found = sorted(str(path) for path in Path(name).glob("**/*.safetensors")) if Path(name).is_dir() else []
    return ", ".join(found[:_LISTED]) + (", ..." if len(found) > _LISTED else "")
