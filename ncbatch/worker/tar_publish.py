"""Bitstreams that become one tar for a unit: held until all are there, and kept now and then until then."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator, Sequence

from typing_extensions import override

from ncbatch import layout
from ncbatch.metrics.schema import Row
from ncbatch.plan.tar_names import sample_names
from ncbatch.plan.units import PlannedImage, Unit
from ncbatch.store import ObjectNotFound, Store
from ncbatch.store.tars import pack, unpack
from ncbatch.worker.publish import Publisher
from ncbatch.worker.work_in_progress import WorkInProgress

_NOT_YET = ""
"""The key in rows whose tar is yet to be written."""


class TarPublisher(Publisher):
    """Holds the bitstreams of one attempt at a unit, and writes them as one tar.

    What is done is kept in the work in progress as often as the state of a refinement is, so that a killed
    worker costs as little as where each image has a file of its own. A later attempt adopts it from there, or
    from a tar whose attempt died between its two last puts.

    Args:
        output: the run's folder.
        unit: that is done.
        suffix: of the variant's files.
        wip: of the unit.
        seconds: between two times at which what is done is kept.
    """

    def __init__(
        self, output: Store, unit: Unit, attempt: str, suffix: str, wip: WorkInProgress, seconds: float
    ) -> None:
        self._output, self._unit, self._attempt = output, unit, attempt
        self._wip, self._seconds = wip, seconds
        self._names = {
            key: f"{name}.{suffix}" for key, name in sample_names(i.key for i in unit.images).items()
        }
        self._held: dict[str, bytes] = {}
        self._kept = set[str]()
        self._kept_at, self._parts = time.monotonic(), 0
        self._standing: dict[str, list[bytes]] | None = None
        self._lock, self._keeping = threading.Lock(), threading.Lock()

    @override
    def standing(self, image: PlannedImage) -> Iterator[tuple[str, bytes]]:
        with self._lock:
            if self._standing is None:
                self._standing = self._found()
            found = self._standing.get(self._names[image.key], [])
        yield from ((_NOT_YET, data) for data in found)

    def _found(self) -> dict[str, list[bytes]]:
        """What earlier attempts left, by the names of members: one listing or two for all images."""
        found: dict[str, list[bytes]] = {}
        parts = [*self._wip.parts(), *self._tars()]
        for key, archive in parts:
            for name, data in unpack(archive, key):
                same = found.setdefault(name, [])
                if data not in same:
                    same.append(data)
        return found

    def _tars(self) -> Iterator[tuple[str, bytes]]:
        for info in self._output.list(layout.tars_prefix(self._unit.variant, self._unit.id)):
            try:
                yield info.key, self._output.get(info.key)
            except ObjectNotFound:
                continue

    @override
    def adopt(self, image: PlannedImage, key: str, data: bytes) -> str:
        with self._lock:
            self._held[image.key] = data
            self._kept.add(image.key)  # it stands where it was found
        return _NOT_YET

    @override
    def publish(self, image: PlannedImage, data: bytes) -> str:
        with self._lock:
            self._held[image.key] = data
        if time.monotonic() - self._kept_at >= self._seconds:
            self.keep()
        return _NOT_YET

    @override
    def publish_aside(self, image: PlannedImage, data: bytes) -> str:
        return self.publish(image, data)  # nothing stands in the way of what is held

    @override
    def keep(self) -> None:
        with self._keeping:
            with self._lock:
                new = {key: data for key, data in self._held.items() if key not in self._kept}
            self._kept_at = time.monotonic()
            if not new:
                return
            self._parts += 1
            archive, _ = pack((self._names[key], data) for key, data in sorted(new.items()))
            if self._wip.keep_part(f"{self._attempt}-{self._parts}", archive):
                self._kept |= new.keys()

    @override
    def complete(self, rows: Sequence[Row]) -> None:
        ok = {row.image_key: row for row in rows if row.status == "ok"}
        # In the plan's order, in which it is likely to be read, and which is the same in every attempt.
        images = [image.key for image in self._unit.images if image.key in ok]
        if not images:
            return
        archive, members = pack((self._names[key], self._held[key]) for key in images)
        digest = hashlib.sha256(archive).hexdigest()
        tar = layout.tar_key(self._unit.variant, self._unit.id, digest)
        self._output.put(tar, archive)
        for key, member in zip(images, members, strict=True):
            ok[key].bitstream_key, ok[key].offset = tar, member.offset
