"""Whether an input has the bytes that were encoded, though its etag is another one.

A local file's etag is made of its modification time, so `touch`, a copy or a restored backup change it; so do
some ways to copy a bucket. Where the size is the same, the input is read once and compared with the SHA-256
that its row has: that is far cheaper than encoding it again. What was read is kept in the run's folder, so
that no later start reads it once more.
"""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from ncbatch import layout
from ncbatch.images.checks import ImageError
from ncbatch.metrics.parallel import in_parallel
from ncbatch.plan.inputs import DamagedShardError, Inputs
from ncbatch.plan.place import tells_bytes
from ncbatch.plan.progress_log import logged
from ncbatch.plan.units import PlannedImage
from ncbatch.store import ObjectNotFound, Store, StoreError, StoreUnavailable
from ncbatch.words import counted

log = logging.getLogger(__name__)

_CHUNK = 16 * 2**20
_SCHEMA = pa.schema([(name, pa.string()) for name in ("key", "etag", "sha256")])

_CONTENTS = """
select image_key, image_etag, image_sha256 from metrics
where image_sha256 is not null and image_key in (select image_key from _asked)
"""

_Version = tuple[str, str]
"""A key and an etag."""


@dataclass(frozen=True)
class Relisted:
    """An input that was listed under another etag than it is planned with, and with the same size."""

    planned: PlannedImage
    listed: PlannedImage


class Contents:
    """What is known of the bytes of a run's inputs, beyond their etags.

    Args:
        corpus: where they are read.
        output: of the run.
        keep: whether what was read is kept in the output.
    """

    def __init__(self, corpus: Store, output: Store, *, keep: bool = True) -> None:
        self._inputs, self._output, self._keep = Inputs(corpus), output, keep
        self._known: dict[_Version, str] | None = None

    def same(self, relisted: Sequence[Relisted]) -> frozenset[str]:
        """The keys of those whose bytes are the encoded ones.

        An input without a row that knows its content (none was made yet, or by an earlier version) counts as
        another one.
        """
        if not relisted:
            return frozenset()
        encoded = self._encoded([each.planned.key for each in relisted])
        wanted = {each: encoded.get((each.planned.key, each.planned.etag)) for each in relisted}
        known = self._read_where_unknown([each.listed for each, content in wanted.items() if content])
        return frozenset(
            each.listed.key
            for each, content in wanted.items()
            if content and known.get((each.listed.key, each.listed.etag)) == content
        )

    def _encoded(self, keys: Sequence[str]) -> dict[_Version, str]:
        """The content of inputs as their rows tell it."""
        from ncbatch.metrics.query import open_table  # here, since DuckDB is slow to import

        asked = {"_asked": pa.table({"image_key": pa.array(keys, pa.string())})}
        with open_table(self._output) as table:
            rows = table.query(_CONTENTS, asked)
        columns = (rows[name].to_pylist() for name in rows.column_names)
        return {(key, etag): content for key, etag, content in zip(*columns, strict=True)}

    def _read_where_unknown(self, listed: Sequence[PlannedImage]) -> dict[_Version, str]:
        if self._known is None:
            self._known = dict(self._kept()) if listed else {}
        known = self._known
        unknown = [image for image in listed if (image.key, image.etag) not in known]
        if not unknown:
            return known
        log.info("comparing the bytes of %s whose etag changed", counted(len(unknown), "inputs"))
        read = in_parallel(self._content, unknown)
        found = {
            (image.key, image.etag): content
            for image, content in zip(unknown, logged(read, "compared", len(unknown)), strict=True)
            if content is not None
        }
        if found and self._keep:
            self._write(found)
        known |= found
        return known

    def _content(self, image: PlannedImage) -> str | None:
        """SHA-256 of an input as it was listed; None where it is gone, closed, or another one by now."""
        digest = hashlib.sha256()
        try:
            if tells_bytes(image.place):
                for start in range(0, image.bytes, _CHUNK):
                    digest.update(self._inputs.read_range(image, start, _CHUNK))
            else:
                digest.update(self._inputs.read(image).data)
            after = self._inputs.head(image)
        except StoreUnavailable:
            raise
        except (StoreError, DamagedShardError, ImageError) as error:
            log.debug("cannot compare %s: %s", image.key, error)
            return None
        return digest.hexdigest() if after is not None and after.etag == image.etag else None

    def _kept(self) -> Iterable[tuple[_Version, str]]:
        for info in self._output.list(layout.INPUTS_PREFIX):
            try:
                table = pq.ParquetFile(pa.BufferReader(self._output.get(info.key))).read().cast(_SCHEMA)
            except (ObjectNotFound, pa.ArrowException, OSError, ValueError) as error:
                log.warning("ignoring %s, which cannot be read: %s", info.key, error)
                continue
            for row in table.to_pylist():
                yield (row["key"], row["etag"]), row["sha256"]

    def _write(self, found: dict[_Version, str]) -> None:
        rows = [(key, etag, content) for (key, etag), content in sorted(found.items())]
        columns = [pa.array(column, pa.string()) for column in zip(*rows, strict=True)]
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_arrays(columns, schema=_SCHEMA), sink, compression="zstd")
        data = sink.getvalue()
        self._output.put_if_absent(layout.inputs_key(hashlib.sha256(data).hexdigest()), data)
