"""Where in a shard an image lies: the text that a plan has of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SHARD_SUFFIXES = frozenset({"tar", "parquet"})


@dataclass(frozen=True)
class InTar:
    """A member of a tar. start: of its bytes; beside: start and length of the sample's other members, by
    suffix.
    """

    start: int
    beside: Mapping[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class InParquet:
    """A row of a Parquet file. column: that holds the image; row: counted within its row group."""

    column: str
    group: int
    row: int


@dataclass(frozen=True)
class Damage:
    """In the place of an image: what is wrong with a shard, as a message."""

    message: str


Place = InTar | InParquet | Damage


def place_text(place: Place) -> str:
    """A place as a plan has it."""
    content: dict[str, Any]
    match place:
        case InTar(start, beside):
            content = {"tar": start} | ({"beside": dict(beside)} if beside else {})
        case InParquet(column, group, row):
            content = {"parquet": [column, group, row]}
        case Damage(message):
            content = {"damage": message}
    return json.dumps(content, separators=(",", ":"))


def place_of(text: str) -> Place:
    """The place that a text of `place_text` is of."""
    content = json.loads(text)
    if "tar" in content:
        return InTar(content["tar"], {k: (v[0], v[1]) for k, v in content.get("beside", {}).items()})
    if "parquet" in content:
        return InParquet(*content["parquet"])
    return Damage(content["damage"])


def tells_bytes(text: str | None) -> bool:
    """Whether it is known where an image's bytes begin and end; of one in Parquet, only its row is."""
    return text is None or not isinstance(place_of(text), InParquet)


def is_shard(key: str) -> bool:
    """Whether an object is one by its name."""
    stem, _, suffix = key.rpartition("/")[2].rpartition(".")
    return bool(stem) and suffix.lower() in SHARD_SUFFIXES


def shard_of(image_key: str) -> str:
    """The key of the shard that an image lies in; of a damaged shard, its own."""
    folders = image_key.split("/")
    for end in range(1, len(folders)):
        if is_shard(folders[end - 1]):
            return "/".join(folders[:end])
    return image_key
