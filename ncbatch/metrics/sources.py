"""Where the rows of an open table are read from: parts in the store, and what is fetched at once."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pyarrow as pa

from ncbatch.metrics.errors import MetricsError
from ncbatch.metrics.objects import Part, TableObjects, find_objects
from ncbatch.metrics.parallel import in_parallel
from ncbatch.metrics.parts import damaged, parts_of, read_columns
from ncbatch.metrics.schema import SCHEMA, parquet_to_table
from ncbatch.metrics.unit_commits import read_units
from ncbatch.store import ObjectInfo, ObjectNotFound, Store

if TYPE_CHECKING:
    from pyarrow.dataset import Dataset

log = logging.getLogger(__name__)

_HELD_UNITS = 512
"""So many loose units are held in memory; of more, the rows go to temporary files."""
_SPOOLED_ROWS = 250_000


@dataclass(frozen=True)
class Sources:
    """The rows of a table, each once.

    Attributes:
        objects: that make the table up.
        held: rows that are in memory.
        parts: data sets of the others.
    """

    store: Store
    objects: TableObjects
    held: pa.Table
    parts: tuple[Dataset, ...]

    def find_damage(self) -> None:
        """Raises MetricsError naming the part whose bytes are damaged, if one of them is."""
        for part in self.objects.parts:
            read_columns(self.store, part.info, SCHEMA.names)


def gather(store: Store, objects: TableObjects, folder: Store) -> Sources:
    """Gathers the rows of a table.

    What may be deleted while a query runs is copied to this machine: objects below `recent/`.

    Args:
        store: the run's folder.
        objects: that make up its table.
        folder: for temporary files.

    Raises:
        MetricsError: an object that is fetched now is damaged.
    """
    try:
        copied = list(in_parallel(lambda part: _copy(store, part, folder), objects.recent))
    except ObjectNotFound:
        log.debug("%srecent/ was merged further meanwhile; its rows are read from what stays", store.uri)
        objects, copied = replace(find_objects(store, recent=False), versions=objects.versions), []
    held = pa.Table.from_batches([], SCHEMA)
    if len(objects.loose) > _HELD_UNITS:
        copied += _spool(store, objects.loose, folder)
    else:
        held = pa.concat_tables([held, *read_units(store, objects.loose)])
    found = [(store, [part.info for part in objects.parts]), (folder, copied)]
    return Sources(store, objects, held, tuple(_dataset(s, infos) for s, infos in found if infos))


def _dataset(store: Store, infos: Sequence[ObjectInfo]) -> Dataset:
    from ncbatch.metrics.dataset import parts_dataset  # here, since it loads pandas: half a second

    return parts_dataset(store, infos)


def _copy(store: Store, part: Part, folder: Store) -> ObjectInfo:
    data = store.get(part.info.key)
    try:
        parquet_to_table(data, ["unit"])
    except MetricsError as error:
        raise damaged(part.info.key, str(error)) from error
    folder.put(part.info.key, data)
    return part.info


def _spool(store: Store, units: Sequence[str], folder: Store) -> Iterator[ObjectInfo]:
    """Merges the rows of many commits into files on this machine, for this reader only."""
    for number, writer in enumerate(parts_of(read_units(store, units), _SPOOLED_ROWS)):
        folder.put(key := f"units/{number}.parquet", data := writer.finish())
        yield ObjectInfo(key, len(data), "")
