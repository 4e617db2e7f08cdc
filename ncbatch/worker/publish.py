"""Bitstreams in the output: found again, and written so that bytes under a committed row never change."""

from __future__ import annotations

from collections.abc import Iterator

from ncbatch import layout
from ncbatch.plan.spec import RunSpec
from ncbatch.plan.units import PlannedImage, Unit
from ncbatch.store import ObjectNotFound, Store


class Publisher:
    """Reads and writes the bitstreams of one attempt at a unit.

    Args:
        attempt: the attempt's id.
        suffix: of the variant's files.
        spec: of the run. Where the store does not honour create-only puts, every attempt writes to keys of
            its own, else two attempts at once could exchange the bytes under a committed row.
    """

    def __init__(self, output: Store, unit: Unit, attempt: str, suffix: str, spec: RunSpec) -> None:
        self._output, self._unit, self._attempt, self._create_only = output, unit, attempt, spec.create_only
        self._suffix, self._shards = suffix, spec.shard_prefix

    def _stem(self, image: PlannedImage) -> str:
        return layout.bitstream_stem(self._unit.variant, image.key, self._unit.generation, self._shards)

    def _key(self, image: PlannedImage, attempt: str | None) -> str:
        return layout.bitstream_key(
            self._unit.variant, image.key, self._unit.generation, attempt, self._suffix, self._shards
        )

    def standing(self, image: PlannedImage) -> Iterator[tuple[str, bytes]]:
        """Bitstreams that earlier attempts left for an image, as (key, bytes)."""
        if self._create_only:
            keys = [self._key(image, None)]
        else:
            stem = self._stem(image)
            ours = layout.attempt_named(stem, self._suffix)
            keys = [info.key for info in self._output.list(stem + ".") if ours.fullmatch(info.key)]
        for key in keys:
            try:
                yield key, self._output.get(key)
            except ObjectNotFound:
                continue

    def publish(self, image: PlannedImage, data: bytes) -> str | None:
        """Writes a bitstream; its key, or None when other bytes stand where it belongs."""
        key = self._key(image, None if self._create_only else self._attempt)
        return key if self._output.put_if_absent(key, data) else None

    def publish_aside(self, image: PlannedImage, data: bytes) -> str:
        """Writes a bitstream under the attempt's own name, past bytes that are of no use."""
        key = self._key(image, self._attempt)
        self._output.put(key, data)
        return key
