"""Columns of Arrow as arrays of numpy. Arrow's own way loads pandas, which takes half a second."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

_TYPES = {pa.int32(): np.int32, pa.int64(): np.int64}


def whole(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """A column in one piece."""
    if not isinstance(column, pa.ChunkedArray):
        return column
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


def integers(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """A column of integers, 0 in the place of nulls; int64[rows]."""
    array = whole(column)
    if not len(array):
        return np.zeros(0, np.int64)
    valid, data = array.buffers()
    values = np.frombuffer(data, _TYPES[array.type])[array.offset : array.offset + len(array)]
    return np.where(_bits(valid, array), values, 0).astype(np.int64) if valid else values.astype(np.int64)


def booleans(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """A column of booleans without nulls; bool[rows]."""
    array = whole(column)
    return _bits(array.buffers()[1], array) if len(array) else np.zeros(0, bool)


def _bits(buffer: pa.Buffer, array: pa.Array) -> np.ndarray:
    bits = np.unpackbits(np.frombuffer(buffer, np.uint8), bitorder="little")
    return bits[array.offset : array.offset + len(array)].astype(bool)
