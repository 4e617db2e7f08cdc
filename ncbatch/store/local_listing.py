"""Walks a folder in the order in which an object store lists its keys."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ncbatch.store.errors import StoreError
from ncbatch.store.local_errors import as_store_error
from ncbatch.store.local_names import key_of_name, shown

_CLOSED = (errno.EACCES, errno.EPERM)
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)  # deleted meanwhile, or a link to nowhere


@dataclass(frozen=True)
class _Node:
    """A file, or a folder, whose key ends in "/".

    Attributes:
        path: below the root, in the bytes of the file names.
        key: the UTF-8 of its key.
        above: identifies the folders that it is in.
    """

    path: bytes
    key: bytes
    status: os.stat_result
    above: frozenset[tuple[int, int]]


def walk(
    root: Path, prefix: str, unreadable: Callable[[str, StoreError], None] | None = None
) -> Iterator[tuple[str, os.stat_result]]:
    """Every regular file below `root` whose key starts with `prefix`, in UTF-8 byte order of the keys.

    Links are followed, except into a folder that they are in themselves. A missing root has no files.

    Args:
        root: the folder.
        prefix: of the keys wanted.
        unreadable: called with the key of a folder below the root that the operating system does not let us
            read, and with the error; the walk goes on without it. Where it is not given, that is an error.
    """
    base = os.fsencode(root)
    wanted = prefix.encode(errors="surrogatepass")
    waiting = [_Node(b"", b"", os.stat_result([0] * 10), frozenset())]
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
            problem = as_store_error(error, shown(base), node.key.decode() or ".")
            if unreadable is None or not node.key or error.errno not in _CLOSED:
                raise problem from error
            unreadable(node.key.decode(), problem)
            continue
        # Compared with their final "/": "a.png" < "a/b" < "a0", although the folder's name alone sorts first.
        waiting += sorted(children, key=lambda child: child.key, reverse=True)


def _children(base: bytes, folder: _Node, wanted: bytes) -> list[_Node]:
    path = os.path.join(base, folder.path)  # noqa: PTH118 - names are bytes here, Path takes text only
    here = os.stat(path)  # noqa: PTH116
    above = folder.above | {(here.st_dev, here.st_ino)}
    children = []
    with os.scandir(path) as entries:
        for entry in entries:
            # S3 would list everything. In a folder these are version control, trash and our own unfinished
            # writes, and a corpus should not grow by what a file manager leaves behind.
            if entry.name.startswith(b"."):
                continue
            child = _node(entry, folder, above, wanted)
            if child is not None:
                children.append(child)
    return children


def _node(
    entry: os.DirEntry[bytes], folder: _Node, above: frozenset[tuple[int, int]], wanted: bytes
) -> _Node | None:
    path = folder.path + entry.name
    key = folder.key + key_of_name(entry.name).encode()
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
        path, key = path + b"/", key + b"/"
        if (status.st_dev, status.st_ino) in above or not (key.startswith(wanted) or wanted.startswith(key)):
            return None
    elif not stat.S_ISREG(status.st_mode) or not key.startswith(wanted):
        return None
    return _Node(path, key, status, above)
