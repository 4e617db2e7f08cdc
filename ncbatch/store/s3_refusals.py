"""Why a server that keeps objects as files answers a put with status 500.

S3 lets "a" and "a/b" stand side by side and has no limit on the parts of a key. Servers over a file system
(rclone is one) can do neither, and report it as an internal error, as if it would pass. Trying for minutes
would stall a run over one image, so after such an answer we look for ourselves.
"""

from __future__ import annotations

import re

from botocore.exceptions import ClientError

from ncbatch.store.errors import StoreError
from ncbatch.store.s3_connection import S3Connection
from ncbatch.store.s3_errors import status_of

_LONGEST_PART = 255  # bytes; of ext4, xfs, btrfs, APFS and most others
_FAILURES_THAT_LAST = 3


def explain_refused_put(connection: S3Connection, full: str, failures: int) -> None:
    """Looks why a put was answered with status 500.

    Raises:
        StoreError: the server can never hold the key `full`; otherwise nothing happens, and the put may be
            tried again.
    """
    where = f"{connection.endpoint()} cannot hold the key {full!r} in the bucket {connection.bucket!r}"
    long = next((part for part in full.split("/") if len(part.encode()) > _LONGEST_PART), None)
    if long is not None:
        raise StoreError(
            f"{where}: one of its parts has {len(long.encode())} bytes and the server's file system seems to "
            f"allow {_LONGEST_PART}; rename the object or use another store"
        )
    try:
        rival = _rival(connection, full)
        lasting = failures >= _FAILURES_THAT_LAST and _is_listed_but_missing(connection, full)
    except StoreError:
        return  # the server is in trouble, so its refusal says nothing about the key
    if rival is not None:
        raise StoreError(
            f"{where} beside {rival!r}, because it keeps keys as files and folders; rename one of the two "
            "or use another store"
        )
    if lasting:
        raise StoreError(
            f"{where}: a folder of that name is in its way, or its disk is full; rename one of the two, or "
            "free space, or use another store"
        )


def _rival(connection: S3Connection, full: str) -> str | None:
    """An object that stands where this one needs a folder, or below where it wants to stand."""
    below = _first_key(connection, full + "/")
    if below is not None:
        return below
    parents = (full[: slash.start()] for slash in re.finditer("/", full))
    # In the order of keys "a" itself comes before everything else that begins with "a".
    return next((parent for parent in parents if _first_key(connection, parent) == parent), None)


def _is_listed_but_missing(connection: S3Connection, full: str) -> bool:
    """Whether the server lists the key but does not have the object.

    rclone does that for a while after a put that it could not finish; it also hides the objects below
    meanwhile.
    """
    if _first_key(connection, full) != full:
        return False
    try:
        connection.request(lambda c: c.head_object(Bucket=connection.bucket, Key=full), full, seconds=0)
    except StoreError as error:
        if isinstance(error.__cause__, ClientError):
            return status_of(error.__cause__) == 404
        raise
    return False


def _first_key(connection: S3Connection, prefix: str) -> str | None:
    page = connection.request(
        lambda c: c.list_objects_v2(Bucket=connection.bucket, Prefix=prefix, MaxKeys=1), None, seconds=0
    )
    return next((entry["Key"] for entry in page.get("Contents", ())), None)
