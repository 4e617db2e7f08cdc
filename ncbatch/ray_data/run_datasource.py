"""A run as a source of Ray Data."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from ray.data import Datasource, ReadTask
from ray.data.block import BlockMetadata
from ray.data.extensions import ArrowTensorArray, ArrowVariableShapedTensorArray
from typing_extensions import override

from ncbatch.datasets.rows import RunRows
from ncbatch.datasets.source import RunSource
from ncbatch.images.pixels import Pixels

_BLOCK_BYTES = 32 << 20
"""Of a block's pixels: what a task holds of decoded images."""


class RunDatasource(Datasource):
    """Divides rows among read tasks, each of which decodes its own.

    Args:
        source: where images are decoded from.
        rows: that are wanted.
    """

    def __init__(self, source: RunSource, rows: RunRows) -> None:
        super().__init__()
        self._source, self._rows = source, rows

    @override
    def get_name(self) -> str:
        """What Ray calls the read tasks."""
        return "NcbatchRun"

    @override
    def estimate_inmemory_data_size(self) -> int:
        """Bytes of all decoded images."""
        return int(self._rows.pixel_bytes.sum())

    @override
    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        """Tasks that read about as many pixels each; images of one pack are read by one task."""
        weights = self._rows.pixel_bytes
        limit = {} if per_task_row_limit is None else {"per_task_row_limit": per_task_row_limit}
        tasks = []
        for span in self._rows.groups.spans(weights, parallelism):
            numbers = span.rows()
            # A copy: a slice would be sent with the whole table behind it.
            rows = self._rows.table.take(pa.array(numbers))
            size = int(weights[numbers].sum())
            metadata = BlockMetadata(num_rows=len(rows), size_bytes=size, input_files=None, exec_stats=None)
            read = partial(_blocks, self._source, rows, self._rows.columns)
            tasks.append(ReadTask(read, metadata, **limit))
        return tasks


def _blocks(source: RunSource, rows: pa.Table, columns: tuple[str, ...]) -> Iterator[pa.Table]:
    """The images of rows in blocks of some megabytes, with the columns that are wanted."""
    schema = pa.schema([rows.schema.field(name) for name in columns])
    told: list[dict[str, Any]] = []
    images: list[Pixels] = []
    for row, image in source.images(rows, np.arange(len(rows))):
        told.append({name: row[name] for name in columns})
        images.append(image)
        if sum(held.nbytes for held in images) >= _BLOCK_BYTES:
            yield _block(images, told, schema)
            told, images = [], []
    if images:
        yield _block(images, told, schema)


def _block(images: list[Pixels], told: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    alike = len({image.shape for image in images}) == 1
    tensors = (ArrowTensorArray if alike else ArrowVariableShapedTensorArray).from_numpy(images)
    beside = pa.Table.from_pylist(told, schema=schema)
    return pa.table({"image": tensors, **dict(zip(schema.names, beside.columns, strict=True))})
