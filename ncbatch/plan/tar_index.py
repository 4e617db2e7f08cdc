"""The images in a tar, as its headers tell; what lies between headers is not read."""

from __future__ import annotations

import logging
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from typing_extensions import override

from ncbatch.errors import first_line
from ncbatch.images.header import image_size
from ncbatch.store.ranged_file import WindowedFile
from ncbatch.words import counted

log = logging.getLogger(__name__)

COPY_AGAIN = "copy the shard again from its source"
"""The remedy for a shard that is damaged."""

_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
"""What archives begin with that are compressed as a whole: there, no member can be reached by itself."""

_LARGEST_BESIDE = 64 << 10
"""Bytes of a caption or the like; what is larger is none."""


@dataclass(frozen=True)
class TarFile:
    """A file in a tar.

    Attributes:
        name: as the archive has it.
        start: of its bytes.
        length: how many they are.
        size: width and height, where the beginning of an image was at hand and told them.
        beside: start and length of small files of the same sample, by suffix.
    """

    name: str
    start: int
    length: int
    size: tuple[int, int] | None = None
    beside: dict[str, tuple[int, int]] = field(default_factory=dict)


class DamagedTarError(Exception):
    """An archive cannot be read any further; the message says from where on.

    Attributes:
        fix: the remedy.
    """

    def __init__(self, what: str, fix: str = COPY_AGAIN) -> None:
        super().__init__(what, fix)
        self.fix = fix

    @override
    def __str__(self) -> str:
        return str(self.args[0])


def files_in_tar(file: WindowedFile, name: str) -> Iterator[TarFile]:
    """The files in a tar, in their order.

    Args:
        file: the archive.
        name: under this name a warning is logged that says how many members are links or sparse files, which
            have no bytes of their own in one piece.

    Raises:
        DamagedTarError: behind those that were yielded, the archive is damaged or cut off.
    """
    if program := _compressed_by(file):
        raise DamagedTarError(
            f"it is compressed by {program}", "decompress it, so that its images can be reached one by one"
        )
    at, others = 0, 0
    try:
        # The reading of headers is tarfile's: long names, sparse and extended headers are its business.
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for info in tar:
                if info.offset_data + info.size > file.size:
                    raise DamagedTarError(f"it ends in the middle of {info.name!r}")
                if info.isreg() and not info.issparse():
                    yield TarFile(info.name, info.offset_data, info.size, _size(file, info))
                elif not info.isdir():
                    others += 1
                tar.members = []  # type: ignore[attr-defined]  # else it keeps all of them
                at = tar.offset
            _check_end(file, tar.offset)
        if others:
            log.warning("%s: passed over %s: links or sparse files", name, counted(others, "members"))
    except tarfile.TarError as error:
        where = f"it is damaged or cut off at byte {at:,}"
        raise DamagedTarError(f"{where}: {first_line(error)}") from error


def _size(file: WindowedFile, info: tarfile.TarInfo) -> tuple[int, int] | None:
    """Width and height, if that costs nothing."""

    def at_hand(offset: int, length: int) -> bytes:
        return file.peek(info.offset_data + offset, min(length, info.size - offset))

    return image_size(at_hand)


def _compressed_by(file: WindowedFile) -> str | None:
    """The program that compressed a file as a whole."""
    start = file.read(4)
    file.seek(0)
    return next((name for magic, name in _COMPRESSED.items() if start.startswith(magic)), None)


def _check_end(file: WindowedFile, offset: int) -> None:
    """tarfile takes a header that it cannot read for the end; a real one is a block of zeros."""
    file.seek(offset)
    block = file.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE or any(block):
        raise DamagedTarError(f"it is damaged or cut off at byte {offset:,}, where a header should be")


def with_beside(files: list[TarFile], image_suffixes: frozenset[str]) -> Iterator[TarFile]:
    """The images among some files, each with the small files of its sample: those that are called like it up
    to the first dot, as webdataset has it.
    """
    beside: dict[str, dict[str, tuple[int, int]]] = {}
    images = list[tuple[str, TarFile]]()
    for file in files:
        sample, suffix = _parted(file.name)
        if suffix.rpartition(".")[2] in image_suffixes:
            images.append((sample, file))
        elif file.length <= _LARGEST_BESIDE:
            beside.setdefault(sample, {})[suffix] = (file.start, file.length)
    for sample, file in images:
        yield replace(file, beside=beside.get(sample, {}))


def _parted(name: str) -> tuple[str, str]:
    """A file's sample and its suffix."""
    folder, slash, last = name.rpartition("/")
    stem, _, suffix = last.partition(".")
    return folder + slash + stem, suffix.lower()
