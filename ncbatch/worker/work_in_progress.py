"""Work in progress: a long refinement's state between steps, so that a killed worker costs a minute."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import time
from collections.abc import Iterator, Sequence

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from ncbatch import __version__, layout
from ncbatch.codec.encode import RefinementState
from ncbatch.codec.refinement.batch import Watched
from ncbatch.plan.spec import Variant
from ncbatch.plan.units import PlannedImage, Unit
from ncbatch.store import ObjectNotFound, Store, StoreError

log = logging.getLogger(__name__)

_TAG, _MEMBERS = "tag", "members"
_LAYOUT = 3
"""Of what is saved: which tensors it is made of. A state of another layout is left alone."""


class WorkInProgress:
    """The state of the batch a unit is at: one object per unit, overwritten. Beside it, one object for every
    image that is done and waits for the others of its pack, or tars of bitstreams that wait for theirs.

    Two attempts may write it at once; each state is whole and says whose it is, so either may be resumed.

    Args:
        seconds: between two saves.
    """

    def __init__(self, output: Store, unit: Unit, variant: Variant, seconds: float) -> None:
        self._output, self._key, self._seconds = output, layout.wip_key(unit.id), seconds
        self._unit, self._digest = unit.id, variant.digest
        self._planned = unit.images
        self._refines, self._packs = variant.recipe.refines, variant.recipe.uses_bits_back
        self._saved_at = time.monotonic()
        self._found: torch.Tensor | None = None
        self._state: RefinementState | None = None
        self._looked = False
        # Whether there may be anything to discard, as far as this attempt knows.
        self._stands, self._keeps = self._refines, self._packs

    def _tag(self, images: Sequence[PlannedImage]) -> torch.Tensor:
        """Names program, layout, batch and recipe; kept as a tensor, since `load` of bytes drops metadata."""
        content = f"{__version__} {_LAYOUT} {self._digest}"
        content += "".join(f"\n{len(i.key)} {i.key} {i.etag}" for i in images)
        return torch.tensor(list(hashlib.sha256(content.encode()).digest()), dtype=torch.uint8)

    def interrupted(self) -> list[str]:
        """The keys of the images whose refinement an earlier attempt saved, in their order; empty if none.

        Only the same images together go on from there, whatever size batches have now.
        """
        if not self._refines:
            return []
        state = self._look()
        members = state[_MEMBERS].tolist() if state and _MEMBERS in state else []
        if not all(0 <= index < len(self._planned) for index in members):
            return []
        images = [self._planned[index] for index in members]
        return [image.key for image in images] if self._is_of(images) else []

    def resume(self, images: Sequence[PlannedImage]) -> RefinementState | None:
        """The state that an earlier attempt saved of exactly this batch under this recipe, or None."""
        if not self._refines:
            return None
        # A state can take hundreds of megabytes, so it is neither fetched again for every batch of the unit,
        # nor kept longer than until the first of them.
        state, self._state = self._look(), None
        if not self._is_of(images):
            return None
        state = self._stored(self._key) if state is None else state
        log.info("continuing at step %d from %s", int(state["step"]), self._key)
        return state

    def _look(self) -> RefinementState | None:
        """What stands there at the first call; later None, if it has been taken."""
        if not self._looked:
            self._state, self._looked = self._stored(self._key), True
            self._found = self._state.get(_TAG)
        return self._state

    def _is_of(self, images: Sequence[PlannedImage]) -> bool:
        return self._found is not None and torch.equal(self._found, self._tag(images))

    def _stored(self, key: str) -> RefinementState:
        """What stands at the key, empty where it is nothing or damaged."""
        try:
            return load(self._output.get(key))
        except ObjectNotFound:
            self._stands = self._stands and key != self._key
            return {}
        except SafetensorError as error:
            log.warning("ignoring %s, which is damaged: %s", key, error)
            return {}

    def keep(self, image: PlannedImage, state: RefinementState) -> None:
        """Keeps what was found for an image of the unit until the unit is committed."""
        self._keeps = True
        with _not_needed("keeping what was found for an image"):
            self._output.put(self._kept_key(image), save(state))

    def kept(self, images: Sequence[PlannedImage]) -> dict[str, RefinementState]:
        """What earlier attempts kept of images of this unit, by their keys."""
        there = {info.key for info in self._output.list(layout.kept_prefix(self._unit))}
        self._keeps = bool(there)
        states = {i.key: self._stored(key) for i in images if (key := self._kept_key(i)) in there}
        return {key: state for key, state in states.items() if state}

    def keep_part(self, name: str, archive: bytes) -> bool:
        """Keeps a tar of bitstreams that are done until the unit is committed; whether that was possible."""
        self._keeps = True
        with _not_needed("keeping the bitstreams that are done"):
            self._output.put(layout.kept_tar_key(self._unit, name), archive)
            return True
        return False

    def parts(self) -> Iterator[tuple[str, bytes]]:
        """The tars that earlier attempts kept, as (key, bytes)."""
        for info in list(self._output.list(layout.kept_prefix(self._unit))):
            self._keeps = True
            with contextlib.suppress(ObjectNotFound):
                yield info.key, self._output.get(info.key)

    def _kept_key(self, image: PlannedImage) -> str:
        """Names program and layout, too; recipe and etags are in the unit's name."""
        name = hashlib.sha256(f"{__version__} {_LAYOUT} {image.key}".encode()).hexdigest()
        return f"{layout.kept_prefix(self._unit)}{name}.safetensors"

    def due(self, refinement: Watched, *, at_once: bool = False) -> bool:
        """Whether it is time to save the refinement's state, or there is something to save at once."""
        early = not at_once and time.monotonic() - self._saved_at < self._seconds
        return not (early or refinement.done or refinement.step == 0)

    def save(self, refinement: Watched, images: Sequence[PlannedImage], more: RefinementState) -> None:
        """Saves the refinement's state with `more` beside it, in the place of what stands there."""
        places = {image.key: index for index, image in enumerate(self._planned)}
        members = torch.tensor([places[image.key] for image in images])
        state = {**refinement.state(), **more, _TAG: self._tag(images), _MEMBERS: members}
        self._stands = True
        with _not_needed("saving the work in progress"):
            self._output.put(self._key, save(state))
        self._saved_at = time.monotonic()

    def discard(self) -> None:
        """Deletes the state, whichever attempt saved it; for when the unit is committed.

        What this attempt has not found and not written itself is not asked for again: that would take a
        request or two, in which the device waits. Should another attempt have saved a state meanwhile, the
        driver deletes it at the end of the run.
        """
        with _not_needed("deleting the work in progress"):
            if self._stands:
                self._output.delete(self._key)
            if self._keeps:
                for info in list(self._output.list(layout.kept_prefix(self._unit))):
                    self._output.delete(info.key)


@contextlib.contextmanager
def _not_needed(what: str) -> Iterator[None]:
    """Goes on when the store refuses or cannot be reached: without this an image is encoded all the same."""
    try:
        yield
    except StoreError as error:
        log.warning("%s failed, and encoding goes on without it: %s", what, error)


def discard_all(output: Store) -> None:
    """Deletes what workers left who died between a commit and their tidying up; for when all is committed."""
    with _not_needed("deleting what is left of work in progress"):
        for info in list(output.list(layout.WIP_PREFIX)):
            output.delete(info.key)
