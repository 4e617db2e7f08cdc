"""The names of files in tars as webdataset takes them: up to the first dot, they name a sample."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

from ncbatch import layout
from ncbatch.plan.corpus import SUFFIXES

_META = "__"
"""webdataset passes over what lies in folders that begin and end like this."""


def sample_names(image_keys: Iterable[str]) -> dict[str, str]:
    """A sample's name for each of some images, by key: the key without its suffix, so that samples can be
    joined with those of the images' own shards.

    No two are the same: where images differ in their suffixes only, all but the first keep these. The same
    keys in the same order have the same names.
    """
    names, taken = dict[str, str](), set[str]()
    for key in image_keys:
        names[key] = next(name for name in _candidates(key) if name not in taken)
        taken.add(names[key])
    return names


def _candidates(key: str) -> Iterator[str]:
    folder, slash, last = key.rpartition("/")
    path = PurePosixPath(last)
    if path.suffix.lstrip(".").lower() in SUFFIXES:
        yield sample_name(layout.safe_name(folder + slash + path.stem))
    yield sample_name(layout.safe_name(key))
    yield hashlib.sha256(key.encode()).hexdigest()


def sample_name(name: str) -> str:
    """A path without dots in its last part, as which webdataset takes it for a sample's name as a whole."""
    *folders, last = name.split("/")
    folders = [f"%5F{part[1:]}" if part.startswith(_META) else part for part in folders]
    return "/".join([*folders, last.replace(".", "%2E")])
