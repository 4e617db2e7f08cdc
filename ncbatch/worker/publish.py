"""Bitstreams in the output: found again, and written so that bytes under a committed row never change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from typing_extensions import override

from ncbatch import layout
from ncbatch.metrics.schema import Row
from ncbatch.plan.spec import RunSpec
from ncbatch.plan.units import PlannedImage, Unit
from ncbatch.store import ObjectNotFound, Store


class Publisher(Protocol):
    """Reads and writes the bitstreams of one attempt at a unit. Any thread may call it."""

    def standing(self, image: PlannedImage) -> Iterator[tuple[str, bytes]]:
        """Bitstreams that earlier attempts left for an image, as (key, bytes)."""

    def adopt(self, image: PlannedImage, key: str, data: bytes) -> str:
        """Takes one of those for the image's; its key for the row."""

    def publish(self, image: PlannedImage, data: bytes) -> str | None:
        """Writes a bitstream; its key for the row, or None when other bytes stand where it belongs."""

    def publish_aside(self, image: PlannedImage, data: bytes) -> str:
        """Writes a bitstream under the attempt's own name, past bytes that are of no use."""

    def keep(self) -> None:
        """Lets a later attempt find what was published so far, should this one end now."""

    def complete(self, rows: Sequence[Row]) -> None:
        """Writes what is yet to be written for the rows of the whole unit, and says in them where it lies."""


class FilePublisher(Publisher):
    """Each bitstream is an object of its own.

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

    @override
    def standing(self, image: PlannedImage) -> Iterator[tuple[str, bytes]]:
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

    @override
    def adopt(self, image: PlannedImage, key: str, data: bytes) -> str:
        return key

    @override
    def publish(self, image: PlannedImage, data: bytes) -> str | None:
        key = self._key(image, None if self._create_only else self._attempt)
        return key if self._output.put_if_absent(key, data) else None

    @override
    def publish_aside(self, image: PlannedImage, data: bytes) -> str:
        key = self._key(image, self._attempt)
        self._output.put(key, data)
        return key

    @override
    def keep(self) -> None:
        """Every bitstream stands where a later attempt looks for it."""

    @override
    def complete(self, rows: Sequence[Row]) -> None:
        """Every bitstream stands where its row says."""
