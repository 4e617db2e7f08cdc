"""Rows of a run to images, in whatever process they are wanted."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import pyarrow as pa

from ncbatch.codec.errors import BitstreamError, DecodeCheckError
from ncbatch.datasets.groups import Numbers
from ncbatch.decoding.run_reader import RunReader
from ncbatch.errors import NcbatchError, UsageError
from ncbatch.images.pixels import Pixels
from ncbatch.models.loading import RunModels, usable_device
from ncbatch.stages import Ahead
from ncbatch.store import StoreOptions, open_store

log = logging.getLogger(__name__)

OnError = Literal["raise", "skip"]
Row = dict[str, Any]

_FETCHES = 8
"""Requests that go on at once, beside the decoding."""
_FETCHED = 16
"""Bitstreams that are held at most before they are decoded."""
_ROWS_AT_ONCE = 512
"""Rows that are looked at together, for those that lie side by side in a tar."""


class UndecodableImageError(NcbatchError):
    """An image of a run whose bytes are missing or damaged."""


@dataclass(frozen=True)
class RunSource:
    """Where images are decoded from, and how. Can be pickled; each process opens what it needs.

    Attributes:
        uri: of the run's folder.
        on_error: what becomes of an image whose bytes are missing or damaged.
        device: that decodes.
        options: how to reach an S3 server.
    """

    uri: str
    on_error: OnError = "raise"
    device: str = "cpu"
    options: StoreOptions = field(default_factory=StoreOptions)

    def __post_init__(self) -> None:
        if self.on_error not in get_args(OnError):
            raise UsageError(f"on_error: {self.on_error!r} is not one of {', '.join(get_args(OnError))}")

    def images(self, table: pa.Table, numbers: Numbers) -> Iterator[tuple[Row, Pixels]]:
        """Decodes rows, one after the other, while those that follow are fetched.

        Memory holds a few bitstreams, or one pack and its images, and the image that is yielded.

        Args:
            table: with COLUMNS.
            numbers: of its rows, in the order in which they are wanted.

        Yields:
            each row, and the colours of its image, uint8[height, width, 3].

        Raises:
            UndecodableImageError: the bytes of an image are missing or damaged, and that is to be raised.
            ModelError: the run's model is missing or damaged, or the device does not compute exactly.
            UsageError: this machine does not have the device.
            UnreadableError: access to an image is denied.
        """
        reader = _reader(os.getpid(), self)

        def rows() -> Iterator[Row]:
            for first in range(0, len(numbers), _ROWS_AT_ONCE):
                some: list[Row] = table.take(pa.array(numbers[first : first + _ROWS_AT_ONCE])).to_pylist()
                reader.expect(some)
                yield from some

        def fetched(row: Row) -> tuple[Row, bytes | NcbatchError | None]:
            try:
                return row, reader.fetch(row)
            except (BitstreamError, DecodeCheckError) as error:
                return row, error  # told in its turn

        try:
            with Ahead(fetched, lambda row: 1, _FETCHES, _FETCHED) as stage:
                for row, data in stage.of(rows()):
                    try:
                        if isinstance(data, NcbatchError):
                            raise data
                        image = reader.decode_fetched(row, data, alpha=False)[0]
                    except (BitstreamError, DecodeCheckError) as error:
                        self._tell(row, error)
                    else:
                        yield row, image
        finally:
            reader.close_packs()

    def _tell(self, row: Row, error: NcbatchError) -> None:
        what = f"{self.uri}: the image {row['image_key']!r} cannot be decoded: {error}"
        if self.on_error == "raise":
            raise UndecodableImageError(
                f"{what}; `ncbatch verify --repair` plans it again, and on_error='skip' leaves it out"
            ) from error
        log.warning("%s; it is left out", what)


@functools.lru_cache(maxsize=4)
def _reader(process: int, source: RunSource) -> RunReader:
    """The reader of a run with its model, kept from epoch to epoch. process: a fork has to open its own."""
    store = open_store(source.uri, source.options)
    return RunReader(store, rows=[], models=RunModels(store, usable_device(source.device)))
