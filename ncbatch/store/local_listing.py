"""Walks a folder in the order in which an object store lists its keys."""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ncbatch.store.local_errors import as_store_error

_log = logging.getLogger(__name__)

_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)  # deleted meanwhile, or a link to nowhere


@dataclass(frozen=True)
class _Node:
    """A file, or a folder with a key that ends in "/"; `above` identifies the folders it is in."""

    key: bytes
    status: os.stat_result
    above: frozenset[tuple[int, int]]


def walk(root: Path, prefix: str) -> Iterator[tuple[str, os.stat_result]]:
    """Every regular file below `root` whose relative key starts with `prefix`, in UTF-8 byte order of the
    keys.

    Links are followed, but not into a folder that they are in themselves. Names that are not UTF-8 are
    skipped with a warning. A missing root has no files.
    """
    base = os.fsencode(root)
    wanted = prefix.encode(errors="surrogatepass")
    waiting = [_Node(b"", os.stat_result([0] * 10), frozenset())]
    if not root.is_dir():
        return
    while waiting:
        node = waiting.pop()
        if node.key and not node.key.endswith(b"/"):
            yield node.key.decode(), node.status
            continue
        try:
            children = _children(base, node, wanted)
        except OSError as error:
            if error.errno in _GONE:
                continue
            raise as_store_error(error, str(root), node.key.decode() or ".") from error
        # Compared with their final "/": "a.png" < "a/b" < "a0", although the folder's name alone sorts first.
        waiting += sorted(children, key=lambda child: child.key, reverse=True)


def _children(base: bytes, folder: _Node, wanted: bytes) -> list[_Node]:
    path = os.path.join(base, folder.key)  # noqa: PTH118 - names are bytes here, Path takes text only
    here = os.stat(path)  # noqa: PTH116
    above = folder.above | {(here.st_dev, here.st_ino)}
    children = []
    with os.scandir(path) as entries:
        for entry in entries:
            # S3 would list everything. In a folder these are version control, trash and our own unfinished
            # writes, and a corpus should not grow by what a file manager leaves behind.
            if entry.name.startswith(b"."):
                continue
            child = _node(entry, folder.key + entry.name, above, wanted)
            if child is not None:
                children.append(child)
    return children


def _node(
    entry: os.DirEntry[bytes], key: bytes, above: frozenset[tuple[int, int]], wanted: bytes
) -> _Node | None:
    if not (key.startswith(wanted) or wanted.startswith(key)):
        return None
    try:
        status = entry.stat()
    except OSError as error:
        if error.errno in _GONE:
            return None
        raise
    is_folder = stat.S_ISDIR(status.st_mode)
    if is_folder:
        key += b"/"
        if (status.st_dev, status.st_ino) in above or not (key.startswith(wanted) or wanted.startswith(key)):
            return None
    elif not stat.S_ISREG(status.st_mode) or not key.startswith(wanted):
        return None
    try:
        key.decode()
    except UnicodeDecodeError:
        _log.warning("skipping %r: its name is not valid UTF-8; rename it to include it", os.fsdecode(key))
        return None
    return _Node(key, status, above)
