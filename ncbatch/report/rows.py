"""A run's table, asked in SQL for what a report shows."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import cached_property
from typing import Any

import pyarrow as pa

from ncbatch.metrics.query import OpenTable, open_table, opened_rows
from ncbatch.metrics.sql import one_of
from ncbatch.report.errors import ReportError
from ncbatch.store import Store

SAVED_PERCENT = "100 * (1 - rd_loss / nullif(amortized_rd_loss, 0))"
"""R-D loss that refinement saved, in SQL."""

EXACT = "isinf(psnr)"
"""Images that came back exactly, in SQL; their infinite PSNR would hide all others in a mean."""


class Rows:
    """The rows of a run as they stood when they were opened.

    Every question is answered by DuckDB over the columns that it names: of a run's million rows, Python sees
    as many as are shown. To be used as a context, or to be closed.
    """

    def __init__(self, opening: AbstractContextManager[OpenTable]) -> None:
        """Takes a table that is to be opened."""
        self._stack = ExitStack()
        self.table = self._stack.enter_context(opening)

    @classmethod
    def of(cls, output: Store) -> Rows:
        """Opens the rows of the run in an output folder."""
        return cls(open_table(output))

    @classmethod
    def held(cls, table: pa.Table) -> Rows:
        """The rows of a table in memory."""
        return cls(opened_rows(table))

    def __enter__(self) -> Rows:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the table; nothing can be asked any more."""
        self._stack.close()

    @cached_property
    def any(self) -> bool:
        """Whether there are any."""
        return bool(self.select("select 1 from metrics limit 1"))

    def select(self, sql: str) -> list[dict[str, Any]]:
        """The rows that a query gives, as dictionaries. The SQL calls the table `metrics` and bounds their
        number.
        """
        return self.table.query(sql).to_pylist()

    def require_images(self, image_keys: Sequence[str]) -> None:
        """Checks that images were encoded.

        Raises:
            ReportError: one of them was not.
        """
        if not image_keys:
            return
        sql = "select distinct image_key from metrics where status = 'ok' and image_key "
        there = {row["image_key"] for row in self.select(sql + one_of(tuple(image_keys)))}
        for key in image_keys:
            if key not in there:
                raise ReportError(f"the run has no encoded image {key!r}; --images takes keys of the table")

    def one(self, sql: str) -> dict[str, Any]:
        """The only row that a query gives."""
        (row,) = self.select(sql)
        return row
