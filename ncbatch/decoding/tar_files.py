"""Decoded images as tars that webdataset reads, some hundred megabytes each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from ncbatch.decoding.destination import Destination, OccupiedError
from ncbatch.decoding.findings import Finding
from ncbatch.store.tars import pack

Decoded = tuple[Finding, bytes]
"""What became of a row, and its image as PNG where `written` names it."""


def write_tars(
    destination: Destination, stem: str, tar_bytes: int, images: Iterable[Decoded]
) -> Iterator[Finding]:
    """Writes images into tars, `<stem>-00000.tar` and so on; yields what became of each once it is written.

    Args:
        destination: the folder.
        stem: of the tars' names.
        tar_bytes: from which size on an archive takes no further image.
        images: in their order; `written` is the name in the archive.
    """
    waiting: list[Decoded] = []
    number = size = 0
    for finding, data in images:
        waiting.append((finding, data))
        size += len(data)
        if size >= tar_bytes:
            yield from _written(destination, f"{stem}-{number:05d}.tar", waiting)
            waiting, number, size = [], number + 1, 0
    if waiting:
        yield from _written(destination, f"{stem}-{number:05d}.tar", waiting)


def _written(destination: Destination, tar: str, waiting: list[Decoded]) -> Iterator[Finding]:
    archive, members = pack((found.written, data) for found, data in waiting if found.written is not None)
    problem = None
    if members:
        try:
            destination.write(tar, archive)
        except OccupiedError as error:
            problem = str(error)
    for finding, _ in waiting:
        if finding.written is None:
            yield finding
        elif problem is None:
            yield replace(finding, written=f"{tar}/{finding.written}")
        else:
            yield replace(finding, written=None, problem=problem)
