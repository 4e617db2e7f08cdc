"""Single objects that users name by URI or path."""

import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote_to_bytes

from ncbatch.errors import UsageError
from ncbatch.store import Store, StoreOptions, key_of_name, open_store


def read_object(uri: str, options: StoreOptions) -> bytes:
    """The bytes of the object at an `s3://` or `file://` URI or at a plain path.

    Raises:
        ObjectNotFound, StoreError: as of `Store.get`.
    """
    store, name = folder_of(uri, options)
    return store.get(name)


def folder_of(uri: str, options: StoreOptions, *, create: bool = False) -> tuple[Store, str]:
    """The store around an object, and its name there."""
    folder, slash, _ = uri.rpartition("/")
    return open_store((folder + slash) or ".", options, create=create), name_in_uri(uri)


def name_in_uri(uri: str) -> str:
    """The last part of a URI or path, as a key."""
    name = uri.rpartition("/")[2]
    if uri.lower().startswith("file://"):
        return key_of_name(unquote_to_bytes(name))
    return name if "://" in uri else key_of_name(os.fsencode(name))


def folders_above(uri: str) -> Iterator[str]:
    """The folders that an object is in, from the nearest to the outermost."""
    if "://" not in uri:
        yield from map(str, Path(uri).absolute().parents)
        return
    scheme, _, path = uri.partition("://")
    while "/" in path:
        path = path.rpartition("/")[0]
        yield f"{scheme}://{path}/"


def no_file(uri: str) -> UsageError:
    """The error for an object that is not there, or that is a folder."""
    folder = "://" not in uri and Path(uri).is_dir()
    return UsageError(f"{uri} is a folder, not a file" if folder else f"there is no file {uri}")


def require_object(uri: str, options: StoreOptions) -> None:
    """Checks that an object is there, without fetching it.

    Raises:
        UsageError: there is none.
    """
    store, name = folder_of(uri, options)
    if store.head(name) is None:
        raise no_file(uri)


def portable(path: str) -> str:
    """A path or URI in a form that means the same in another locale, and can be stored as text."""
    if path.isascii() or "://" in path:
        return path
    try:
        if os.fsencode(path) == path.encode():
            return path
    except UnicodeEncodeError:
        pass
    return Path(path).absolute().as_uri()
