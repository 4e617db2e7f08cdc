"""A table in a few numbers, for status lines and reports."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

SUMMARY_COLUMNS = ("status", "image_bytes", "length", "bpp", "psnr")


@dataclass(frozen=True)
class Summary:
    """Rows by status; means over the ok rows, None without any; bytes of the ok rows.

    mean_psnr leaves out infinite values (pictures that came back exactly), which would hide all others.
    """

    ok: int
    failed: int
    mean_bpp: float | None
    mean_psnr: float | None
    image_bytes: int
    bitstream_bytes: int


def summarise(table: pa.Table) -> Summary:
    """Summarise a metrics table that has at least SUMMARY_COLUMNS."""
    # `starts_with`, since a comparison with a plain string loads pandas, which takes half a second.
    ok = table.filter(pc.starts_with(table["status"], pattern="ok"))
    psnr = ok["psnr"].filter(pc.is_finite(ok["psnr"]))
    return Summary(
        ok=len(ok),
        failed=len(table) - len(ok),
        mean_bpp=pc.mean(ok["bpp"]).as_py(),
        mean_psnr=pc.mean(psnr).as_py(),
        image_bytes=pc.sum(ok["image_bytes"]).as_py() or 0,
        bitstream_bytes=pc.sum(ok["length"]).as_py() or 0,
    )
