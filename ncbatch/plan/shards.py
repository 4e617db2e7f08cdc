"""The images in tars and Parquet files of a corpus: found by reading headers and footers in ranges."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import pyarrow as pa
import pyarrow.parquet as pq

from ncbatch.errors import RunError, first_line
from ncbatch.plan.generations import planned_units
from ncbatch.plan.parquet_index import images_in_parquet
from ncbatch.plan.place import Damage, InParquet, InTar, place_text, shard_of
from ncbatch.plan.spec import find_run
from ncbatch.plan.tar_index import COPY_AGAIN, DamagedTarError, TarFile, files_in_tar, with_beside
from ncbatch.plan.units import PlannedImage, Unit
from ncbatch.store import ObjectInfo, ObjectNotFound, Store
from ncbatch.store.ranged_file import WindowedFile
from ncbatch.words import counted

log = logging.getLogger(__name__)

Version = tuple[str, str]
"""The key and the etag of a shard."""


@dataclass(frozen=True)
class Shards:
    """Reads which images shards hold.

    Attributes:
        corpus: where they lie.
        suffixes: of images.
        output: of a run, whose plan has images of some shards, which are not read again.
    """

    corpus: Store
    suffixes: frozenset[str]
    output: Store | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, compare=False)

    def images(self, info: ObjectInfo) -> list[PlannedImage]:
        """The images of a shard in the order of their keys, none where it has no images.

        Of a shard that is damaged, those that can be reached, and one that stands for the damage: it has the
        key of the shard itself.
        """
        with self._lock:
            known = self._known
        found = known.get((info.key, info.etag))
        if found is None:
            read = self._in_parquet if info.key.lower().endswith(".parquet") else self._in_tar
            found = list(read(info))
        return sorted(found, key=lambda image: image.key.encode("utf-8", "surrogatepass"))

    @cached_property
    def _known(self) -> Mapping[Version, Sequence[PlannedImage]]:
        """What the plan has, read when the first shard is met."""
        if self.output is None:
            return {}
        try:
            stored = find_run(self.output)
        except RunError:  # which is told where the run is opened
            return {}
        return {} if stored is None else known_shards(planned_units(stored, self.output))

    def _file(self, info: ObjectInfo) -> WindowedFile:
        return WindowedFile.of(self.corpus, info)

    def _in_tar(self, info: ObjectInfo) -> Iterator[PlannedImage]:
        files = list[TarFile]()
        problem: DamagedTarError | None = None
        try:
            files.extend(files_in_tar(self._file(info), info.key))
        except DamagedTarError as error:
            problem = error
        except ObjectNotFound:
            return
        found = list(with_beside(files, self.suffixes))
        images = {file.name.removeprefix("./"): file for file in found}  # the last of a name counts
        if twice := len(found) - len(images):
            log.warning(
                "%s: left out %s with a name that a later one has", info.key, counted(twice, "images")
            )
        for name, file in images.items():
            width, height = file.size or (None, None)
            place = place_text(InTar(file.start, file.beside))
            yield PlannedImage(f"{info.key}/{name}", info.etag, file.length, width, height, place)
        if problem is not None:
            before = f"; before that, {counted(len(images), 'images')} can be read" if images else ""
            yield _damaged(info, f"{problem}{before}", problem.fix)

    def _in_parquet(self, info: ObjectInfo) -> Iterator[PlannedImage]:
        try:
            metadata = pq.ParquetFile(self._file(info)).metadata
            images = list(images_in_parquet(metadata))
        except ObjectNotFound:
            return
        except (pa.ArrowException, OSError, ValueError) as error:
            yield _damaged(info, f"its footer cannot be read ({first_line(error)})", COPY_AGAIN)
            return
        if not images:
            log.debug("passed over %s: it has no column of images, or no rows", info.key)
        for image in images:
            place = InParquet(image.column, image.group, image.row)
            yield PlannedImage(f"{info.key}/{image.name}", info.etag, image.length, place=place_text(place))


def _damaged(info: ObjectInfo, what: str, fix: str) -> PlannedImage:
    log.warning("the shard %s cannot be read: %s; %s", info.key, what, fix)
    return PlannedImage(info.key, info.etag, 0, place=place_text(Damage(f"{what}; {fix}")))


def known_shards(units: Sequence[Unit]) -> dict[Version, list[PlannedImage]]:
    """What a plan has of the images in shards."""
    found: dict[Version, dict[str, PlannedImage]] = {}
    for unit in units:
        for image in unit.images:
            if image.place is not None:
                found.setdefault((shard_of(image.key), image.etag), {})[image.key] = image
    return {version: list(images.values()) for version, images in found.items()}
