"""What an operating system's refusal means to somebody who uses a folder as a store."""

from __future__ import annotations

import errno

from ncbatch.store.errors import AccessDenied, ObjectNotFound, Obstructed, StoreError, StoreFull

_OCCUPIED = frozenset({errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY})
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_NO_LINKS = frozenset({errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV})


def as_store_error(error: OSError, root: str, key: str) -> StoreError:
    """An operating system's error, met at `key` in the folder `root`, as a store's error."""
    if error.errno == errno.ENOENT:
        return ObjectNotFound(f"there is no object {key!r} in {root}; it may have been deleted or renamed")
    if error.errno == errno.ENAMETOOLONG:
        return StoreError(
            f"the key {key!r} is too long for a file name in {root}; rename the object or keep it in an S3 "
            "store"
        )
    if error.errno in _FULL:
        return StoreFull(
            f"the disk or quota of {root} is full ({key!r}); free space and run the same command again"
        )
    if error.errno in _DENIED:
        return AccessDenied(
            f"the operating system denies access to {key!r} in {root} ({error.strerror}); check the owner "
            "and the permissions of the folder"
        )
    if error.errno in _OCCUPIED:
        return Obstructed(
            f"{key!r} in {root} needs a folder where a file is, or a file where a folder is; rename one of "
            "the two or keep them in an S3 store"
        )
    if error.errno in _NO_LINKS:
        return StoreError(
            f"the file system of {root} has no hard links between its folders ({error.strerror}), which "
            f"writing {key!r} needs; use a folder on a local disk or an S3 store"
        )
    return StoreError(f"{key!r} in {root} cannot be used: {error.strerror}; check the disk or mount")
