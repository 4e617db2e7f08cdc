"""The names of decoded images: those of their inputs, wherever a store can hold them."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import itertools
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import PurePosixPath

from ncbatch import layout
from ncbatch.decoding.destination import Destination
from ncbatch.plan.corpus import SUFFIXES
from ncbatch.plan.tar_names import sample_names
from ncbatch.store import ObjectNotFound
from ncbatch.store.local_names import name_of_key

NAMES = "names.csv"
NAMES_HEADER = b"image_key,name\n"

_SEGMENT_BYTES = 255  # of a file's name, on every common file system
_KEY_BYTES = 700  # S3 takes 1,024, prefix of the destination included
_SUFFIX = ".png"


class DecodedNames:
    """A name for each image of a run; the same ones in whatever order the images are decoded.

    No two images have the same file, not even on a file system that does not distinguish upper from lower
    case. No file is a folder that another one needs, and none lies outside of the destination.
    """

    def __init__(self, image_keys: Iterable[str]) -> None:
        self._files: set[str] = set()
        self._folders: set[str] = set()
        self._names: dict[str, str] = {}
        for key in sorted(set(image_keys)):
            name = next(name for name in _candidates(key) if self._is_free(_folded(name)))
            self._names[key] = name
            self._files.add(_folded(name))
            self._folders |= _folders(_folded(name))

    def __getitem__(self, image_key: str) -> str:
        return self._names[image_key]

    def of(self, image_key: str, variant: str | None) -> str:
        """The name of an image; variant: whose folder it goes to, where there are several."""
        return f"{variant}/{self[image_key]}" if variant is not None else self[image_key]

    def write(self, destination: Destination) -> None:
        """Writes the list of names, if there is one, over that of an earlier decoding, which may have been of
        fewer images.
        """
        if (table := self.table()) is None:
            return
        with contextlib.suppress(ObjectNotFound):
            if destination.store.get(NAMES).startswith(NAMES_HEADER):
                destination = replace(destination, overwrite=True)
        destination.write(NAMES, table)

    def table(self) -> bytes | None:
        """The names that differ from what one would expect, as CSV; None where there are none."""
        other = [(key, name) for key, name in self._names.items() if name != _stem(key) + _SUFFIX]
        if not other:
            return None
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(other)
        return NAMES_HEADER + text.getvalue().encode()

    def _is_free(self, folded: str) -> bool:
        taken = folded in self._files or folded in self._folders
        return not taken and self._files.isdisjoint(_folders(folded))


def image_names(
    image_keys: Iterable[str], destination: Destination, *, several: bool
) -> Callable[[str, str], str]:
    """The names of decoded images, by their keys and variants; writes the list of unexpected ones.

    Args:
        image_keys: of all images.
        destination: where they go; in tars they have the names of `sample_names`.
        several: whether there are several variants, each of which has a folder.

    Raises:
        OccupiedError: something that is no such list stands in its place.
    """
    if destination.tar_bytes is not None:
        samples = sample_names(sorted(set(image_keys)))
        return lambda key, variant: (f"{variant}/" if several else "") + samples[key] + _SUFFIX
    names = DecodedNames(image_keys)
    names.write(destination)
    return lambda key, variant: names.of(key, variant if several else None)


def image_name(image_key: str) -> str:
    """The object name of a decoded image: its key with `.png` in the place of its suffix.

    What no folder can hold is escaped as in URIs (empty and hidden parts, `..`, control characters); a name
    that is too long is cut and gets a hash.
    """
    return next(_candidates(image_key))


def file_name(bitstream: str) -> str:
    """The object name of a decoded single file: as in a run, where it is called as a run calls it."""
    return image_name(layout.unescaped(bitstream.removesuffix(".ncb")))


def _candidates(image_key: str) -> Iterator[str]:
    """Names in order of preference: plain, with a hash in its folder, with a hash at the top."""
    segments = [_safe_segment(segment) for segment in _stem(image_key).split("/")]
    digest = hashlib.sha256(image_key.encode()).hexdigest()
    plain = "/".join(segments) + _SUFFIX
    if _fits(plain):
        yield plain
    *folders, last = segments
    beside = "/".join([*folders, _marked(last, digest[:8])])
    if _fits(beside):
        yield beside
    yield _marked(last, digest[:8])
    for n in itertools.count():  # somebody may have named an image so on purpose
        yield _marked(last, f"{digest}-{n}")


def _fits(name: str) -> bool:
    try:
        parts = name_of_key(name).split(b"/")
    except ValueError:
        return False
    return max(map(len, parts)) <= _SEGMENT_BYTES and len(name.encode()) <= _KEY_BYTES


def _marked(segment: str, mark: str) -> str:
    """A file's name with a mark, cut where that makes it too long."""
    room = _SEGMENT_BYTES - len(f"~{mark}{_SUFFIX}")
    cut = segment.replace("\\", "%5C").encode()[:room].decode(errors="ignore")
    return f"{cut}~{mark}{_SUFFIX}"


def _stem(image_key: str) -> str:
    """An image's key without the suffix."""
    folder, slash, last = image_key.rpartition("/")
    path = PurePosixPath(last)
    return folder + slash + (path.stem if path.suffix.lstrip(".").lower() in SUFFIXES else last)


def _safe_segment(segment: str) -> str:
    if not segment:
        return "%"
    if set(segment) == {"."}:
        return segment.replace(".", "%2E")
    try:
        name_of_key(segment)
    except ValueError:  # a key of S3 that reads like the escapes of a file name
        segment = segment.replace("\\", "%5C")
    start = "%2E" if segment.startswith(".") else segment[0]
    return "".join(f"%{ord(c):02X}" if unicodedata.category(c) == "Cc" else c for c in start + segment[1:])


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _folders(name: str) -> set[str]:
    """The folders that a file is in."""
    return {name[: match.start()] for match in re.finditer("/", name)}
