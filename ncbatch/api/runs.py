"""A run as `ncbatch encode` wrote it: its table, and its images."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

import duckdb
import pyarrow as pa

from ncbatch.api.places import path_text, store_options
from ncbatch.images.pixels import Pixels
from ncbatch.metrics import query as sql_over
from ncbatch.metrics.table import read_table
from ncbatch.plan.spec import read_run
from ncbatch.store import Store, open_store

__all__ = ["Run", "open_run"]


def open_run(
    uri: str | os.PathLike[str],
    *,
    endpoint_url: str | None = None,
    region: str | None = None,
    storage_options: Mapping[str, str] | None = None,
) -> Run:
    """Opens the output folder of a run, which may still be encoding.

    Args:
        uri: An `s3://bucket/prefix` URI, a `file://` URI or a path.
        endpoint_url: The S3 server that an `s3://` URI refers to; by default the environment's.
        region: The region of that server; by default the environment's.
        storage_options: What else S3 needs, by the keys of `--storage-option`, such as
            `{"requester-pays": "true"}`.

    Raises:
        NcbatchError: There is no run, or its store cannot be reached.
        TypeError: `uri` is neither text nor a path.

    Example:
        >>> import ncbatch
        >>> ncbatch.open_run("/nowhere/at/all")
        Traceback (most recent call last):
        ...
        ncbatch.store.errors.StoreError: ...
    """
    store = open_store(path_text(uri, "uri"), store_options(endpoint_url, region, storage_options))
    store.check()
    return Run(store)


class Run:
    """A run, read-only; made by `open_run`.

    Attributes:
        uri: Of its output folder.
        variants: The names of its variants.
    """

    uri: str
    variants: tuple[str, ...]

    def __init__(self, store: Store) -> None:
        """Use `open_run`."""
        self._store = store
        self._decode: Callable[[str, str | None], Pixels] | None = None
        self.uri = store.uri
        self.variants = tuple(variant.name for variant in read_run(store).spec.variants)

    def __repr__(self) -> str:
        return f"<ncbatch.Run {self.uri}>"

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of all units committed so far: one for every image and variant, ordered by these two.

        Args:
            columns: Names of the columns wanted, in their order; by default all of them.

        Returns:
            An Arrow table. `table().to_pandas()` and `polars.from_arrow(table())` convert it.

        Raises:
            NcbatchError: An unknown column, or the table is damaged.
        """
        return read_table(self._store, columns=columns)

    def relation(self, connection: duckdb.DuckDBPyConnection | None = None) -> duckdb.DuckDBPyRelation:
        """The same rows as a DuckDB relation, to be filtered, aggregated or joined lazily.

        Args:
            connection: The connection it belongs to; by default DuckDB's own, that of `duckdb.sql`.

        Raises:
            NcbatchError: The table is damaged.
        """
        return sql_over.relation(self.table(), connection)

    def query(self, sql: str) -> pa.Table:
        """The result of a query as an Arrow table; the run's own table is not held in memory for it.

        Args:
            sql: A select in DuckDB's SQL over the table `metrics`. It sees that table and what finished
                checks on a cluster found (`findings`), and nothing else: neither files nor variables.

        Returns:
            An Arrow table, with times in UTC.

        Raises:
            NcbatchError: The SQL is wrong, or the table is damaged.
        """
        return sql_over.query(self._store, sql)

    def image(self, key: str, variant: str | None = None) -> Pixels:
        """Decodes an image of the run, with the model that is kept in it.

        Args:
            key: The image's `image_key` in the table.
            variant: The name of the variant; may be left out where there is only one.

        Returns:
            uint8[height, width, 3] in RGB; [height, width, 4] in RGBA where the file carries an alpha plane.

        Raises:
            NcbatchError: There is no such row, it failed, or its bytes are missing or damaged.
        """
        if self._decode is None:
            from ncbatch.api.run_images import RunImages  # loads torch, which the table does not need

            self._decode = RunImages(self._store).image
        return self._decode(key, variant)
