"""Work in progress: a long refinement's state between steps, so that a killed worker costs a minute."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Sequence

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from ncbatch.codec.encode import State
from ncbatch.codec.refinement import Refinement
from ncbatch.runs import layout
from ncbatch.runs.plan import PlannedImage, Unit
from ncbatch.runs.spec import Variant
from ncbatch.store import ObjectNotFound, Store

log = logging.getLogger(__name__)

_TAG = "tag"


class WorkInProgress:
    """The state of the batch a unit is at. One object per unit, overwritten.

    Two attempts may write it at once; each state is whole and says whose it is, so either may be resumed.

    Args:
        seconds: between two saves.
    """

    def __init__(self, output: Store, unit: Unit, variant: Variant, seconds: float) -> None:
        self._output, self._key, self._seconds = output, layout.wip_key(unit.id), seconds
        self._digest = variant.digest
        self._saved_at = time.monotonic()
        self._exists = False

    def _tag(self, images: Sequence[PlannedImage]) -> torch.Tensor:
        """Names batch and recipe; kept as a tensor, since `load` of bytes drops metadata."""
        content = self._digest + "".join(f"\n{len(i.key)} {i.key} {i.etag}" for i in images)
        return torch.tensor(list(hashlib.sha256(content.encode()).digest()), dtype=torch.uint8)

    def resume(self, images: Sequence[PlannedImage]) -> State | None:
        """The saved state of exactly this batch under this recipe, or None."""
        try:
            state = load(self._output.get(self._key))
        except ObjectNotFound:
            return None
        except SafetensorError as error:
            log.warning("ignoring %s, which is damaged: %s", self._key, error)
            return None
        self._exists = True
        tag = state.pop(_TAG, None)
        if tag is None or not torch.equal(tag, self._tag(images)):
            return None
        log.info("going on at step %d from %s", int(state["step"]), self._key)
        return state

    def save_sometimes(self, refinement: Refinement, images: Sequence[PlannedImage]) -> None:
        if time.monotonic() - self._saved_at < self._seconds or refinement.done:
            return
        self._output.put(self._key, save({**refinement.state(), _TAG: self._tag(images)}))
        self._exists = True
        self._saved_at = time.monotonic()

    def discard(self) -> None:
        if self._exists:
            self._output.delete(self._key)
