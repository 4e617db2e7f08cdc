"""Loads checkpoints by name, and keeps them beside the runs that they made."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping

import torch

from ncbatch import layout
from ncbatch.codec.bitstream import short_digest
from ncbatch.codec.errors import ModelError, WrongModelError
from ncbatch.codec.model import checkpoint
from ncbatch.codec.model.checkpoint import Checkpoint
from ncbatch.codec.model.hyperprior import Model
from ncbatch.errors import UsageError
from ncbatch.models import zoo
from ncbatch.models.catalog import ZOO_PREFIX, builtin_models
from ncbatch.models.source import read_model
from ncbatch.store import ObjectNotFound, Store, StoreError, StoreOptions, open_store
from ncbatch.store.objects import folders_above

_KEPT_BYTES = 2**29


def load_model(name: str, options: StoreOptions) -> Checkpoint:
    """A checkpoint by name: a built-in one, `compressai:...`, or a file's path or URI.

    Raises:
        ModelError: no such model, or not a checkpoint.
    """
    if name.startswith(ZOO_PREFIX):
        return zoo.load_zoo(name)
    if name in builtin_models():
        return zoo.load_builtin(name)
    return checkpoint.parse(read_model(name, options), name)


def usual_device() -> torch.device:
    """A GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def usable_device(device: torch.device | str) -> torch.device:
    """A device that this machine has.

    Raises:
        UsageError: it has none of that name.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # an AssertionError where PyTorch was built without CUDA
        raise UsageError(f"device: {str(device)!r} cannot be used here; give 'cpu' or 'cuda'") from error
    return torch.device(device)


def on_device(model: Checkpoint) -> Model:
    """The model of a checkpoint, on a GPU where there is one."""
    return Model(model, usual_device())


def keep_model(output: Store, model: Checkpoint) -> None:
    """Stores a checkpoint beside its bitstreams, which then decode whatever becomes of the original."""
    output.put_if_absent(layout.model_key(model.digest), model.to_bytes())


def keep_models(output: Store, names: Mapping[str, str], options: StoreOptions) -> None:
    """Stores those models of a run that are not in its folder yet, or not any more.

    Args:
        output: the run's folder.
        names: of the models, by their digests.
        options: how to reach an S3 server.

    Raises:
        ModelError: a model cannot be loaded any more, or is another now.
    """
    for digest, name in names.items():
        if output.head(layout.model_key(digest)) is None:
            model = load_model(name, options)
            if model.digest != digest:
                raise ModelError(
                    f"the model {name} is another now: its digest is {model.digest[:16]}, not {digest[:16]}; "
                    "put back the checkpoint that the run was planned with"
                )
            keep_model(output, model)


def kept_model(output: Store, digest: str) -> Checkpoint:
    """The checkpoint with this digest that is kept in a run's folder.

    Raises:
        ModelError: it is missing, or not the one that its name says.
    """
    key = layout.model_key(digest)
    try:
        model = checkpoint.parse(output.get(key), output.uri + key)
    except ObjectNotFound as error:
        raise ModelError(f"{output.uri}{key} is missing; the run's bitstreams need it") from error
    if model.digest != digest:
        raise ModelError(f"{output.uri}{key} is damaged: its digest is {model.digest[:16]}")
    return model


ModelSource = Callable[[str], "bytes | None"]
"""A checkpoint's bytes by its digest, from nearer than the run's folder; None where it is not there."""


class RunModels:
    """The models of a run on a device, each loaded, and its digest compared, once.

    Args:
        output: the run's folder.
        device: to compute on.
        source: is asked first.

    Variants take turns, and with them their models; so what was loaded stays, as far as memory goes: of more
    than `_KEPT_BYTES` of checkpoints, those that were used last.
    """

    def __init__(self, output: Store, device: torch.device, source: ModelSource | None = None) -> None:
        self._output, self.device, self._source = output, device, source
        self._models: dict[str, Model] = {}  # the one used last comes last
        self._bytes: dict[str, int] = {}

    def add(self, model: Model, size: int = 0) -> Model:
        """Takes a model that is loaded already. size: of its checkpoint in bytes."""
        self._models[model.digest], self._bytes[model.digest] = model, size
        while len(self._models) > 1 and sum(self._bytes[digest] for digest in self._models) > _KEPT_BYTES:
            del self._models[next(iter(self._models))]
        return model

    def _shared(self, digest: str) -> Checkpoint | None:
        data = self._source(digest) if self._source is not None else None
        if data is None:
            return None
        model = checkpoint.parse(data, f"the model {digest[:16]}")
        return model if model.digest == digest else None

    def get(self, digest: str) -> Model:
        """The model of this digest; errors as `kept_model`."""
        if digest not in self._models:
            found = self._shared(digest) or kept_model(self._output, digest)
            size = sum(tensor.nbytes for tensor in found.tensors.values())
            return self.add(Model(found, self.device), size)
        self._models[digest] = model = self._models.pop(digest)
        return model


def model_of_file(uri: str, digest: str, options: StoreOptions) -> Checkpoint:
    """The model that made a bitstream: a built-in one, or one that is kept in the run around the file.

    Args:
        uri: of the file.
        digest: the short digest in its header.
        options: how to reach an S3 server.

    Raises:
        WrongModelError: no such model has this digest.
    """
    model = _builtin_by_digest(digest) or _kept_above(uri, digest, options)
    if model is None:
        raise WrongModelError(
            f"no built-in model has the digest {digest} that made this file, nor has a models/ folder above "
            f"{uri}; name the checkpoint with --model"
        )
    return model


def _kept_above(uri: str, digest: str, options: StoreOptions) -> Checkpoint | None:
    for folder in folders_above(uri):
        with contextlib.suppress(StoreError, ModelError):  # closed to us, or no checkpoint: look further up
            store = open_store(folder, options)
            for info in store.list(layout.model_key(digest).removesuffix(".safetensors")):
                model = checkpoint.parse(store.get(info.key), store.uri + info.key)
                if short_digest(model.digest) == digest:
                    return model
    return None


def _builtin_by_digest(digest: str) -> Checkpoint | None:
    for name in builtin_models():
        model = zoo.load_builtin(name)
        if short_digest(model.digest) == digest:
            return model
    return None
