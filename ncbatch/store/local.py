"""Objects as files below a folder."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from typing_extensions import override

from ncbatch.store.errors import AccessDenied, ObjectNotFound, StoreError
from ncbatch.store.interface import ALL_KEYS, KeyRange, ObjectInfo, Store, check_range
from ncbatch.store.local_errors import as_store_error
from ncbatch.store.local_listing import walk
from ncbatch.store.local_names import name_of_key, shown

_TEMPORARY = ".ncbatch-tmp"  # hidden, so that listings skip it
_STALE_SECONDS = 24 * 3600.0
_TRIES = 20


class LocalStore(Store):
    """A `Store` in a folder.

    Writes go to a hidden folder at the root first and appear under their key in one step, so a writer that
    dies leaves nothing visible. Create-only writes end in a hard link, which exactly one of several processes
    can make. Keys cannot lead out of the root; symbolic links that stand in it are followed.
    """

    def __init__(self, root: Path, *, create: bool = False) -> None:
        """A store at a folder.

        Args:
            root: its absolute path.
            create: whether a missing root is made by the first write.
        """
        self.root = root
        self.create = create

    @property
    def _shown(self) -> str:
        return shown(os.fsencode(self.root))

    @property
    @override
    def uri(self) -> str:
        uri = self.root.as_uri()
        return uri if uri.endswith("/") else uri + "/"

    def __repr__(self) -> str:
        return f"LocalStore({str(self.root)!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        # As bytes: a worker's locale may read the path otherwise.
        return _reopened, (os.fsencode(self.root), self.create)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LocalStore) and (self.root, self.create) == (other.root, other.create)

    def __hash__(self) -> int:
        return hash((self.root, self.create))

    @override
    def get(self, key: str) -> bytes:
        return self.get_with_info(key)[1]

    @override
    def get_with_info(self, key: str) -> tuple[ObjectInfo, bytes]:
        with self._reading(key) as descriptor, open(descriptor, "rb", closefd=False) as file:
            for _ in range(_TRIES):
                before = os.fstat(descriptor)
                file.seek(0)
                data = file.read()
                # Our own writers replace files whole; somebody's editor or copy may write into them.
                if _etag(before) == _etag(os.fstat(descriptor)) and len(data) == before.st_size:
                    return ObjectInfo(key, len(data), _etag(before)), data
        raise StoreError(f"{key!r} in {self._shown} changes while it is read; wait until it has been written")

    @override
    def get_range(self, key: str, start: int, length: int) -> bytes:
        return self.get_range_with_info(key, start, length)[1]

    @override
    def get_range_with_info(self, key: str, start: int, length: int) -> tuple[ObjectInfo, bytes]:
        check_range(start, length)
        with self._reading(key) as descriptor, open(descriptor, "rb", closefd=False) as file:
            status = os.fstat(descriptor)
            size = status.st_size
            # Bounded by the file, so that no buffer of a nonsensical length is made.
            file.seek(min(start, size))
            data = file.read(min(length, max(size - start, 0)))
            return ObjectInfo(key, size, _etag(status)), data

    @override
    def head(self, key: str) -> ObjectInfo | None:
        path = self._path(key)
        try:
            status = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise self._error(error, key) from error
        return ObjectInfo(key, status.st_size, _etag(status)) if stat.S_ISREG(status.st_mode) else None

    @override
    def put(self, key: str, data: bytes) -> None:
        self._write(key, data, create_only=False)

    @override
    def put_if_absent(self, key: str, data: bytes) -> bool:
        for _ in range(_TRIES):
            if self.head(key) is None and self._write(key, data, create_only=True):
                return True
            try:
                return self.get(key) == data
            except ObjectNotFound:
                continue  # deleted since
        raise StoreError(
            f"{key!r} in {self._shown} comes and goes; check that nothing deletes files there meanwhile"
        )

    @override
    def list(
        self,
        prefix: str = "",
        *,
        within: KeyRange = ALL_KEYS,
        unreadable: Callable[[str, StoreError], None] | None = None,
    ) -> Iterator[ObjectInfo]:
        for key, status in walk(self.root, prefix, unreadable):
            if key in within:
                yield ObjectInfo(key, status.st_size, _etag(status), status.st_mtime)

    @override
    def delete(self, key: str) -> None:
        path = self._path(key)
        try:
            path.unlink()
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            if path.is_dir():
                return  # a folder is no object, so none stands there
            raise self._error(error, key) from error
        # Object stores have no folders: what is empty now must not keep a file from taking its name.
        parent = path.parent
        with contextlib.suppress(OSError):
            while parent != self.root and parent.is_relative_to(self.root):
                parent.rmdir()
                parent = parent.parent

    @override
    def check(self) -> None:
        if not self.root.is_dir():
            if not self.create or self.root.exists():
                raise StoreError(f"the folder {self._shown} does not exist; check the path or create it")
            self._check_can_be_created()
            return
        needed = os.R_OK | os.X_OK | (os.W_OK if self.create else 0)
        if not os.access(self.root, needed):
            raise AccessDenied(
                f"the folder {self._shown} cannot be {'written to' if self.create else 'read'}; check its "
                "owner and permissions"
            )
        self._remove_stale_temporaries()

    def _check_can_be_created(self) -> None:
        above = next(folder for folder in self.root.parents if folder.exists())
        if not above.is_dir():
            raise StoreError(
                f"the folder {self._shown} cannot be made because {above} is a file; use another path"
            )
        if not os.access(above, os.W_OK | os.X_OK):
            raise AccessDenied(
                f"the folder {self._shown} cannot be made in {above}; check who may write there"
            )

    def _path(self, key: str) -> Path:
        parts = key.split("/")
        if any(part in ("", ".", "..") for part in parts) or "\0" in key or parts[0] == _TEMPORARY:
            raise StoreError(
                f"the key {key!r} cannot be a file in {self._shown}: its parts must not be empty, '.', '..', "
                f"contain NUL or be {_TEMPORARY}; rename the object or keep it in an S3 store"
            )
        try:
            name = name_of_key(key)
        except UnicodeEncodeError:
            raise StoreError(f"the key {key!r} is not valid Unicode text; rename the object") from None
        except ValueError as error:
            raise StoreError(f"no file in {self._shown} can have this key: {error}") from None
        return self.root / os.fsdecode(name)

    @contextlib.contextmanager
    def _reading(self, key: str) -> Iterator[int]:
        path = self._path(key)
        try:
            # Without O_NONBLOCK opening a named pipe would wait for its writer for ever.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except NotADirectoryError as error:
            raise self._error(FileNotFoundError(errno.ENOENT, ""), key) from error
        except OSError as error:
            raise self._error(error, key) from error
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise self._error(FileNotFoundError(errno.ENOENT, ""), key)
            yield descriptor
        except OSError as error:
            raise self._error(error, key) from error
        finally:
            os.close(descriptor)

    def _write(self, key: str, data: bytes, *, create_only: bool) -> bool:
        """Writes an object; False if `create_only` is set and an object stands there."""
        path = self._path(key)
        temporary = self.root / _TEMPORARY / uuid.uuid4().hex
        try:
            try:
                self._write_aside(temporary, data)
                return self._publish(temporary, path, create_only)
            finally:
                temporary.unlink(missing_ok=True)
                self._remove_empty_temporary_folder()
        except OSError as error:
            raise self._error(error, key) from error

    def _write_aside(self, temporary: Path, data: bytes) -> None:
        for tries_left in reversed(range(_TRIES)):
            _make_folder(temporary.parent)
            try:
                _write_durably(temporary, data)
                return
            except FileNotFoundError:
                # Another writer was done and removed the folder, empty then, since it was made.
                if not tries_left:
                    raise

    def _remove_empty_temporary_folder(self) -> None:
        """Leaves nothing of ours behind in a user's folder, once nobody writes."""
        with contextlib.suppress(OSError):  # "not empty" means that another writer is at it
            (self.root / _TEMPORARY).rmdir()

    def _publish(self, temporary: Path, path: Path, create_only: bool) -> bool:
        for tries_left in reversed(range(_TRIES)):
            try:
                _make_folder(path.parent)
                if create_only:
                    os.link(temporary, path)
                else:
                    temporary.replace(path)
                _sync_folder(path.parent)
                return True
            except (FileExistsError, IsADirectoryError):
                # Either an object, or a folder left over from deleted ones, or, from mkdir, a file above.
                if not path.is_dir():
                    if create_only and path.exists():
                        return False
                    raise
                path.rmdir()  # "not empty" means that there are objects below
            except FileNotFoundError:
                # A concurrent delete removed the empty folder between mkdir and here.
                if not tries_left:
                    raise
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))

    def _remove_stale_temporaries(self) -> None:
        """Deletes what killed writers left behind.

        Only files a day old are deleted, so that no living writer loses one.
        """
        with contextlib.suppress(OSError):  # tidying only; another process may be at it, or we may only read
            for entry in os.scandir(self.root / _TEMPORARY):
                if time.time() - entry.stat(follow_symlinks=False).st_mtime > _STALE_SECONDS:
                    Path(entry.path).unlink(missing_ok=True)
        self._remove_empty_temporary_folder()

    def _error(self, error: OSError, key: str) -> StoreError:
        return as_store_error(error, self._shown, key)


def _reopened(root: bytes, create: bool) -> LocalStore:
    return LocalStore(Path(os.fsdecode(root)), create=create)


def _make_folder(folder: Path) -> None:
    """Makes a folder and those above it, also while others remove them as soon as they are empty."""
    for tries_left in reversed(range(_TRIES)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return
        except (FileExistsError, FileNotFoundError):
            # One that stood there is gone by the time `mkdir` looks whether it is a folder, or goes on below.
            if not tries_left or (folder.exists() and not folder.is_dir()):
                raise


def _write_durably(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)


def _sync_folder(folder: Path) -> None:
    """Makes a new name survive a power failure, as the fsync of the file does for its bytes."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot
            raise
    finally:
        os.close(descriptor)


def _etag(status: os.stat_result) -> str:
    return f"{status.st_mtime_ns:x}-{status.st_size:x}"
