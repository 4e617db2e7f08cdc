"""Single objects that users name by URI or path."""

from urllib.parse import unquote

from ncbatch.store import StoreOptions, open_store


def read_object(uri: str, options: StoreOptions) -> bytes:
    """The bytes at an `s3://`, `file://` or plain path.

    Raises:
        ObjectNotFound, StoreError: as `Store.get`.
    """
    folder, slash, name = uri.rpartition("/")
    if uri.lower().startswith("file://"):
        name = unquote(name)
    return open_store((folder + slash) or ".", options).get(name)
