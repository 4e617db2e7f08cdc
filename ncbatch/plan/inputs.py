"""The bytes of planned images, whether they are objects of their own or lie in shards."""

from __future__ import annotations

import json
import math
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ncbatch.errors import NcbatchError, first_line
from ncbatch.images.checks import ImageError
from ncbatch.plan.place import InParquet, InTar, place_of, shard_of
from ncbatch.plan.tar_index import COPY_AGAIN
from ncbatch.plan.units import PlannedImage
from ncbatch.store import ObjectInfo, Store
from ncbatch.store.ranged_file import WindowedFile
from ncbatch.store.spans import Span, Spans

_GROUPS_HELD = 2
_LARGEST_JSON = 64 << 10
_CAPTIONS = ("txt", "caption", "text")
"""What captions are called: members by their suffix, and columns."""


class DamagedShardError(NcbatchError):
    """What a shard holds in the place of an image cannot be read."""


@dataclass(frozen=True)
class Input:
    """An image's bytes.

    Attributes:
        etag: of the object that they were read from.
        data: the bytes.
        caption: what stands beside the image in its shard as text.
        json: what else stands there, as a JSON object.
    """

    etag: str
    data: bytes
    caption: str | None = None
    json: str | None = None


class Inputs:
    """Reads planned images. Any thread may ask.

    Images that lie side by side in a tar come with one request, and those of a row group of a Parquet file
    are read together: see `expect`.
    """

    def __init__(self, corpus: Store) -> None:
        self.corpus = corpus
        self._spans = Spans(corpus, ())
        self._groups = _RowGroups(corpus)

    def expect(self, images: Iterable[PlannedImage]) -> None:
        """Says which images will be asked for next, in about their order."""
        spans = (span for image in images if image.place for span in _spans(image))
        self._spans = Spans(self.corpus, spans)

    def read(self, image: PlannedImage) -> Input:
        """An image's bytes, and those of what stands beside it.

        Raises:
            ObjectNotFound, StoreError: as of `Store.get`.
            DamagedShardError: its shard is damaged there.
            ImageError: there are no bytes in the place of an image.
        """
        if image.place is None:
            info, data = self.corpus.get_with_info(image.key)
            return Input(info.etag, data)
        match place_of(image.place):
            case InTar() as place:
                return self._member(image, place)
            case InParquet() as place:
                return self._groups.read(shard_of(image.key), image.etag, place)
            case damage:
                raise DamagedShardError(damage.message)

    def read_range(self, image: PlannedImage, start: int, length: int) -> bytes:
        """As `Store.get_range`, of the image's own bytes."""
        if image.place is None:
            return self.corpus.get_range(image.key, start, length)
        place = place_of(image.place)
        if isinstance(place, InTar):
            length = max(min(length, image.bytes - start), 0)
            return self.corpus.get_range(shard_of(image.key), place.start + start, length)
        return self.read(image).data[start : start + length]

    def head(self, image: PlannedImage) -> ObjectInfo | None:
        """As `Store.head`: in a shard, an image has the shard's etag."""
        if image.place is None:
            return self.corpus.head(image.key)
        info = self.corpus.head(shard_of(image.key))
        return info and replace(info, key=image.key, size=image.bytes)

    def _member(self, image: PlannedImage, place: InTar) -> Input:
        shard, spans = shard_of(image.key), self._spans
        info, data = spans.read_with_info(Span(shard, place.start, image.bytes))
        beside = {
            suffix: spans.read(Span(shard, start, length)) for suffix, (start, length) in place.beside.items()
        }
        return Input(info.etag, data, *_told({suffix: _text(part) for suffix, part in beside.items()}))


def _spans(image: PlannedImage) -> Iterator[Span]:
    assert image.place is not None
    place = place_of(image.place)
    if isinstance(place, InTar):
        shard = shard_of(image.key)
        yield Span(shard, place.start, image.bytes)
        for start, length in place.beside.values():
            yield Span(shard, start, length)


def _text(data: bytes) -> str | None:
    """Text, and None of what is none."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


def _told(beside: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """A caption, and a JSON object with what else stands beside an image; None of what is not there."""
    beside = {name: value for name, value in beside.items() if value is not None and not _is_no_number(value)}
    captions = [beside.pop(name) for name in _CAPTIONS if isinstance(beside.get(name), str)]
    content: dict[str, Any] = {}
    if isinstance(text := beside.pop("json", None), str):
        try:
            found = json.loads(text, parse_constant=lambda name: None)  # NaN, which is no JSON
        except ValueError:
            found = text
        content = found if isinstance(found, dict) else {"json": found}
    content |= beside
    told = json.dumps(content, ensure_ascii=False, default=str) if content else None
    if told is not None and len(told) > _LARGEST_JSON:
        told = None
    return next(iter(captions), None), told


def _is_no_number(value: Any) -> bool:
    """Whether it is one of the floats that JSON does not have."""
    return isinstance(value, float) and not math.isfinite(value)


class _RowGroups:
    """Reads row groups of Parquet files, and holds the last ones."""

    def __init__(self, corpus: Store) -> None:
        self._corpus, self._lock = corpus, threading.Lock()
        self._files: OrderedDict[tuple[str, str], pq.ParquetFile] = OrderedDict()
        self._held: OrderedDict[tuple[str, str, int], pa.Table] = OrderedDict()

    def read(self, shard: str, etag: str, place: InParquet) -> Input:
        with self._lock:
            try:
                group = self._group(shard, etag, place)
            except _ChangedError as changed:
                return Input(changed.etag, b"")
            except (pa.ArrowException, OSError, ValueError) as error:
                raise DamagedShardError(
                    f"row group {place.group} of {shard} is damaged: {first_line(error)}; {COPY_AGAIN}"
                ) from error
        row = {name: group[name][place.row].as_py() for name in group.column_names}
        image = row.pop(place.column)
        data = image.get("bytes") if isinstance(image, dict) else image
        if data is None:
            raise _no_image(image, place)
        return Input(etag, data, *_told(row))

    def _group(self, shard: str, etag: str, place: InParquet) -> pa.Table:
        key = shard, etag, place.group
        if key not in self._held:
            file = self._file(shard, etag)
            columns = _wanted(file.schema_arrow, place.column)
            self._held[key] = file.read_row_group(place.group, columns=columns, use_threads=False)
            while len(self._held) > _GROUPS_HELD:
                self._held.popitem(last=False)
        return self._held[key]

    def _file(self, shard: str, etag: str) -> pq.ParquetFile:
        """The file as it was planned."""
        if (shard, etag) not in self._files:

            def read(start: int, length: int) -> bytes:
                info, data = self._corpus.get_range_with_info(shard, start, length)
                if info.etag != etag:
                    raise _ChangedError(info.etag)
                return data

            info, _ = self._corpus.get_range_with_info(shard, 0, 4)
            if info.etag != etag:
                raise _ChangedError(info.etag)
            self._files[shard, etag] = pq.ParquetFile(WindowedFile(read, info.size), pre_buffer=False)
            while len(self._files) > _GROUPS_HELD:
                self._files.popitem(last=False)
        return self._files[shard, etag]


def _no_image(value: Mapping[str, Any] | None, place: InParquet) -> ImageError:
    """Of a row that holds no bytes: null, or a path to a file that lies elsewhere."""
    row = f"the column {place.column} of row {place.row} of row group {place.group}"
    if path := (value or {}).get("path"):
        fix = "write the Parquet file with the bytes of its images"
        return ImageError("empty", f"{row} holds a path only, {str(path)!r}", fix)
    return ImageError("empty", f"{row} holds no image (null)", "write the Parquet file without such rows")


class _ChangedError(Exception):
    """A shard has another etag than it was planned with."""

    def __init__(self, etag: str) -> None:
        super().__init__(etag)
        self.etag = etag


def _wanted(schema: pa.Schema, image: str) -> list[str]:
    """The columns that are read: the image's, and those of numbers and texts."""
    return [image, *(field.name for field in schema if field.name != image and _is_plain(field.type))]


def _is_plain(kind: pa.DataType) -> bool:
    of = pa.types
    checks = (of.is_integer, of.is_floating, of.is_boolean, of.is_string, of.is_large_string)
    return any(check(kind) for check in checks)
