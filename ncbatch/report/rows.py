"""A run's table, read once with the columns that a report shows, and asked in SQL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from ncbatch.metrics.query import query_table
from ncbatch.metrics.table import read_table
from ncbatch.report.errors import ReportError
from ncbatch.store import Store

COLUMNS = (
    "image_key", "image_bytes", "width", "height", "variant", "model", "model_digest", "lmbda", "method",
    "steps", "status", "error_class", "error", "bpp", "psnr", "ms_ssim", "rd_loss", "amortized_bpp",
    "amortized_psnr", "amortized_rd_loss", "bitstream_key", "offset", "length", "sha256", "encode_seconds",
    "device_seconds", "decode_seconds", "device", "host", "unit", "started_at", "finished_at",
)  # fmt: skip

SAVED_PERCENT = "100 * (1 - rd_loss / nullif(amortized_rd_loss, 0))"
"""R-D loss that refinement saved, in SQL."""

EXACT = "isinf(psnr)"
"""Images that came back exactly, in SQL; their infinite PSNR would hide all others in a mean."""


class Rows:
    """The rows of a run as they stood when they were read.

    Every question is answered by DuckDB over the columns that it names: of a run's million rows, Python sees
    as many as are shown.
    """

    def __init__(self, table: pa.Table) -> None:
        """Takes a table that has at least COLUMNS."""
        self.table = table

    @classmethod
    def of(cls, output: Store) -> Rows:
        """Reads the rows of the run in an output folder."""
        return cls(read_table(output, columns=COLUMNS))

    def __len__(self) -> int:
        return len(self.table)

    def select(self, sql: str) -> list[dict[str, Any]]:
        """The rows that a query gives, as dictionaries. The SQL calls the table `metrics` and bounds their
        number.
        """
        return query_table(self.table, sql).to_pylist()

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


def quoted(text: str) -> str:
    """A text as a string literal of SQL."""
    return "'" + text.replace("'", "''") + "'"


def one_of(texts: list[str] | tuple[str, ...]) -> str:
    """What follows a column, in SQL, to say that it is one of some strings."""
    return f"in ({', '.join(map(quoted, texts))})"
