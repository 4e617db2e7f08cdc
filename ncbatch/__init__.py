"""ncbatch: bulk-encodes image corpora with a learned codec that optimises every image's latents.

The Python API is what this package exports by name, and nothing else:

- `load_model`, `encode`, `decode` and `Model`: single images, to bytes and back;
- `open_run` and `Run`: the table and the images of a run that `ncbatch encode` wrote;
- `datasets.RunDataset` and `ray_data.read_run`: a run as a data set, for PyTorch and for Ray Data;
- `NcbatchError`, the base class of every error whose message is meant for a user.

All other modules are private, whatever their names: they may change in any release. To encode a whole corpus,
use the command line.

The names are loaded when they are first used: `import ncbatch` imports neither PyTorch, Ray nor pyarrow.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ncbatch.api.images import Model, decode, encode, load_model
    from ncbatch.api.runs import Run, open_run
    from ncbatch.errors import NcbatchError

__version__ = "0.1.0"

__all__ = ["Model", "NcbatchError", "Run", "__version__", "decode", "encode", "load_model", "open_run"]

_HOMES = {
    "Model": "ncbatch.api.images",
    "NcbatchError": "ncbatch.errors",
    "Run": "ncbatch.api.runs",
    "decode": "ncbatch.api.images",
    "encode": "ncbatch.api.images",
    "load_model": "ncbatch.api.images",
    "open_run": "ncbatch.api.runs",
}

_ROOMS = ("datasets", "ray_data")
"""Modules with public names of their own."""


def __getattr__(name: str) -> Any:
    """Loads a public name from its module at its first use (PEP 562)."""
    if name in _ROOMS:
        return importlib.import_module(f"ncbatch.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'ncbatch' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """What is public, whether it has been loaded or not."""
    return sorted({*globals(), *__all__, *_ROOMS})
