"""The models of a run in Ray's object store: each node fetches one once, however many workers it has."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import ray
from ray.exceptions import RayError

from ncbatch import layout
from ncbatch.store import Store, StoreError

log = logging.getLogger(__name__)

_SECONDS = 60.0
"""For which a worker waits before it reads a model from the run's folder itself."""


class SharedModels:
    """Gives checkpoints to workers, to which it is pickled and sent.

    Args:
        refs: of the checkpoints' bytes, by their digests.
    """

    def __init__(self, refs: Mapping[str, Any]) -> None:
        self._refs = dict(refs)

    def __call__(self, digest: str) -> bytes | None:
        """The bytes of a checkpoint, or None where Ray does not have them or has lost them."""
        if digest not in self._refs:
            return None
        try:
            return bytes(ray.get(self._refs[digest], timeout=_SECONDS))
        except RayError as error:
            log.warning("reading the model %s from the run's folder: %s", digest[:16], error)
            return None


def share_models(output: Store, digests: Iterable[str]) -> SharedModels:
    """Puts those models of a run into Ray's object store that are in its folder."""
    refs = {}
    for digest in digests:
        try:
            refs[digest] = ray.put(output.get(layout.model_key(digest)))
        except (StoreError, RayError) as error:  # workers read it themselves, and say what is wrong
            log.debug("the model %s is not shared: %s", digest[:16], error)
    return SharedModels(refs)
