"""Single objects that users name by URI or path."""

from urllib.parse import unquote

from ncbatch.store import Store, StoreOptions, open_store


def read_object(uri: str, options: StoreOptions) -> bytes:
    """The bytes at an `s3://`, `file://` or plain path.

    Raises:
        ObjectNotFound, StoreError: as `Store.get`.
    """
    store, name = folder_of(uri, options)
    return store.get(name)


def folder_of(uri: str, options: StoreOptions, *, create: bool = False) -> tuple[Store, str]:
    """The store around an object, and its name there."""
    folder, slash, name = uri.rpartition("/")
    if uri.lower().startswith("file://"):
        name = unquote(name)
    return open_store((folder + slash) or ".", options, create=create), name
