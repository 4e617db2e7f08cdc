"""Tar archives in memory: small objects in one, each of which a ranged read finds by its offset."""

from __future__ import annotations

import io
import logging
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

log = logging.getLogger(__name__)

_END = bytes(2 * tarfile.BLOCKSIZE)


@dataclass(frozen=True)
class Member:
    """A file in an archive. offset: of its bytes in the archive; size: how many they are."""

    name: str
    offset: int
    size: int


def pack(files: Iterable[tuple[str, bytes]]) -> tuple[bytes, list[Member]]:
    """An archive of some files, and where each of them lies in it, in their order.

    The same files make the same bytes: the archive tells neither time nor owner.
    """
    parts, members, position = list[bytes](), list[Member](), 0
    for name, data in files:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        header = info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
        padding = bytes(-len(data) % tarfile.BLOCKSIZE)
        members.append(Member(name, position + len(header), len(data)))
        parts += [header, data, padding]
        position += len(header) + len(data) + len(padding)
    return b"".join([*parts, _END]), members


def unpack(archive: bytes, name: str) -> Iterator[tuple[str, bytes]]:
    """The names and bytes of the files in an archive, as far as it is whole.

    Args:
        archive: its bytes.
        name: of the archive, for a warning where it is damaged.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as tar:
            for info in tar:
                data = archive[info.offset_data : info.offset_data + info.size]
                if info.isreg() and len(data) == info.size:
                    yield info.name, data
    except tarfile.TarError as error:
        log.warning("%s is a damaged archive, and the rest of it is left out: %s", name, error)
