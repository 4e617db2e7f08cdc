"""Places as arguments of Python: their types are checked, and what S3 needs is gathered."""

from __future__ import annotations

import os
from collections.abc import Mapping

from ncbatch.store import StoreOptions


def path_text(place: str | os.PathLike[str], argument: str) -> str:
    """A path or URI as text.

    Raises:
        TypeError: it is neither; the message names the argument.
    """
    text = os.fspath(place) if isinstance(place, str | os.PathLike) else None
    if not isinstance(text, str):
        raise TypeError(f"{argument}: not a path or URI but {type(place).__name__}; give text or a Path")
    return text


def store_options(
    endpoint_url: str | None, region: str | None, more: Mapping[str, str] | None
) -> StoreOptions:
    """How stores are reached; more: by the keys of `--storage-option`.

    Raises:
        UsageError: there is no such option.
    """
    words = tuple(f"{key}={value}" for key, value in (more or {}).items())
    return StoreOptions(endpoint_url=endpoint_url, region=region, storage_option=words)
