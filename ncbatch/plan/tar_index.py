"""The images in a tar, as its headers tell; what lies between headers is not read."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from ncbatch.errors import first_line
from ncbatch.images.header import image_size
from ncbatch.store.ranged_file import WindowedFile

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
    """An archive cannot be read any further; the message says from where on."""


def files_in_tar(file: WindowedFile) -> Iterator[TarFile]:
    """The files in a tar, in their order.

    Raises:
        DamagedTarError: behind those that were yielded, the archive is damaged or cut off.
    """
    try:
        # The reading of headers is tarfile's: long names, sparse and extended headers are its business.
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for info in tar:
                if info.offset_data + info.size > file.size:
                    raise DamagedTarError(f"it ends in the middle of {info.name!r}")
                if info.isreg() and not info.issparse():
                    yield TarFile(info.name, info.offset_data, info.size, _size(file, info))
                tar.members = []  # type: ignore[attr-defined]  # else it keeps all of them
            _check_end(file, tar.offset)
    except tarfile.TarError as error:
        where = f"it is damaged or cut off at byte {file.tell():,}"
        raise DamagedTarError(f"{where}: {first_line(error)}") from error


def _size(file: WindowedFile, info: tarfile.TarInfo) -> tuple[int, int] | None:
    """Width and height, if that costs nothing."""

    def at_hand(offset: int, length: int) -> bytes:
        return file.peek(info.offset_data + offset, min(length, info.size - offset))

    return image_size(at_hand)


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
