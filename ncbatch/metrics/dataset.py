"""Parts of a table as a data set that DuckDB scans: the columns and row groups that a query needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
from pyarrow import fs
from typing_extensions import override

from ncbatch.metrics.schema import SCHEMA
from ncbatch.store import ObjectInfo, Store
from ncbatch.store.ranged_file import ObjectFile

_BATCH_ROWS = 32 * 1024
_BATCHES_AHEAD = 2
_PARTS_AHEAD = 1

_FORMAT = ds.ParquetFileFormat(
    default_fragment_scan_options=ds.ParquetFragmentScanOptions(
        pre_buffer=True,
        cache_options=pa.CacheOptions(lazy=True),  # else the columns of a whole part are fetched at once
        page_checksum_verification=True,
    )
)


def parts_dataset(store: Store, infos: Sequence[ObjectInfo], schema: pa.Schema = SCHEMA) -> ds.Dataset:
    """Parts in a store, as a data set with all columns of the table; those of older parts are null.

    Args:
        store: that holds them.
        infos: of the parts.
        schema: of the table.
    """
    files = fs.PyFileSystem(_StoreFiles(store, infos))
    fragments = [_FORMAT.make_fragment(info.key, files) for info in infos]
    return _Bounded(fragments, schema, _FORMAT, files)


class _Bounded(ds.FileSystemDataset):
    """A data set that reads little ahead: by default Arrow holds some hundred megabytes of rows."""

    @override
    def scanner(self, **options: Any) -> ds.Scanner:
        """A scanner for these options; DuckDB asks for one with the columns and the filter of a query."""
        bounded = {
            "batch_size": _BATCH_ROWS,
            "batch_readahead": _BATCHES_AHEAD,
            "fragment_readahead": _PARTS_AHEAD,
        }
        return super().scanner(**(options | bounded))


class _StoreFiles(fs.FileSystemHandler):
    """Objects of a store as files that Arrow reads."""

    def __init__(self, store: Store, infos: Sequence[ObjectInfo]) -> None:
        self._store, self._infos = store, {info.key: info for info in infos}

    def get_type_name(self) -> str:
        return "ncbatch"

    def normalize_path(self, path: str) -> str:
        return path

    def open_input_file(self, path: str) -> pa.NativeFile:
        return pa.PythonFile(ObjectFile.of(self._store, self._infos[path]), mode="r")

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError("objects are only read, by their keys")

    copy_file = create_dir = delete_dir = delete_dir_contents = delete_file = move = _refuse
    delete_root_dir_contents = get_file_info = get_file_info_selector = _refuse
    open_append_stream = open_input_stream = open_output_stream = _refuse
