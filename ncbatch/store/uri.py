"""From a URI to a store."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote_to_bytes

from ncbatch.errors import UsageError
from ncbatch.store.errors import NotAFolder, StoreError
from ncbatch.store.interface import Store, StoreOptions
from ncbatch.store.local import LocalStore
from ncbatch.store.local_names import name_of_key

if TYPE_CHECKING:
    from ncbatch.store.s3 import S3Store

_KNOWN = "s3://bucket/prefix, file:///folder and plain paths"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{2,254}")


def open_store(uri: str, options: StoreOptions | None = None, *, create: bool = False) -> Store:
    """The store at a URI or path. No request is sent; `Store.check` does that.

    Args:
        uri: "s3://bucket/prefix", "file:///folder" (percent-encoded) or a plain path, with "~" expanded.
        options: how to reach an S3 server.
        create: whether a missing local folder is made by the first write.

    Raises:
        UsageError: not such a URI.
        StoreError: the local folder is missing, and `create` is not set.
    """
    match = _SCHEME.fullmatch(uri)
    if match is None:
        return _open_path(uri, create)
    scheme, rest = match[1].lower(), match[2]
    if scheme == "s3":
        return _open_s3(rest, options or StoreOptions())
    if scheme == "file":
        return _open_file_uri(rest, create)
    raise UsageError(f"{scheme}:// is not a kind of store ncbatch knows; use {_KNOWN}")


def join_uri(base: str, *parts: str) -> str:
    """`base` (a URI or plain path) extended by keys, with one "/" between them, ready for `open_store`.

    Raises:
        ValueError: in a folder, no file has this key.
    """
    joined = "/".join(part.strip("/") for part in parts if part.strip("/"))
    if base.lower().startswith("file://"):
        joined = quote(name_of_key(joined))
    elif "://" not in base:
        joined = os.fsdecode(name_of_key(joined))
    return f"{base.rstrip('/')}/{joined}"


def _open_path(path: str, create: bool) -> LocalStore:
    if not path:
        raise UsageError(f"an empty string does not name a store; use {_KNOWN}")
    if "\0" in path:
        raise UsageError("a path cannot contain a NUL character")
    if re.match(r"(?i)(s3|file):", path):
        raise UsageError(f"{path!r} lacks the two slashes after the scheme; use {_KNOWN}")
    try:
        root = Path(path).expanduser()
    except RuntimeError as error:  # pathlib's way to say that "~somebody" has no home
        raise UsageError(
            f"{path!r} names the home folder of a user that this machine does not have"
        ) from error
    # abspath, not resolve: the user's own names, symbolic links included, stay recognisable in messages and
    # URIs.
    return _local(Path(os.path.abspath(root)), create)  # noqa: PTH100


def _open_file_uri(rest: str, create: bool) -> LocalStore:
    host, slash, path = rest.partition("/")
    if host.lower() not in ("", "localhost") or not slash:
        raise UsageError("a file URI needs three slashes and an absolute path, as in file:///data/photos")
    return _open_path(os.fsdecode(b"/" + unquote_to_bytes(path)), create)


def _local(root: Path, create: bool) -> LocalStore:
    if not root.exists():
        if not create:
            raise StoreError(f"the folder {root} does not exist; check the path or create it")
    elif not root.is_dir():
        raise NotAFolder(f"{root} is a file; name a folder")
    return LocalStore(root, create=create)


def _open_s3(rest: str, options: StoreOptions) -> S3Store:
    bucket, _, prefix = rest.partition("/")
    if "@" in bucket or ":" in bucket:
        # Not repeated in the message: this is what a URI with a key and secret in it looks like.
        raise UsageError(
            "an S3 URI holds no credentials, host or port; write s3://bucket/prefix, give credentials by the "
            "environment or an AWS profile, and the server as the endpoint URL"
        )
    if not _BUCKET.fullmatch(bucket):
        raise UsageError(f"{bucket!r} cannot be the name of a bucket; write s3://bucket/prefix")
    from ncbatch.store.s3 import S3Store  # boto3 takes half a second to import, and folders need none of it

    return S3Store(bucket, prefix, options)
