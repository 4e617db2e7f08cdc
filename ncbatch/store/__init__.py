"""Objects by key, in an S3 bucket or in a local folder.

Everything a run reads and writes goes through a `Store`. There are two: `s3.S3Store` for `s3://bucket/prefix`
(any server that speaks S3) and `LocalStore` for folders; `open_store` picks one from a URI. Keys are relative
to the store's root, separated by "/", and every error is a `StoreError` whose message names what to do.
"""

from ncbatch.store.errors import (
    AccessDenied,
    BucketNotFound,
    DestinationRefused,
    NotAFolder,
    ObjectNotFound,
    Obstructed,
    StoreError,
    StoreFull,
    StoreUnavailable,
)
from ncbatch.store.interface import KeyRange, ObjectInfo, Store, StoreOptions
from ncbatch.store.local import LocalStore
from ncbatch.store.local_names import key_of_name
from ncbatch.store.nesting import prefix_of
from ncbatch.store.probe import honours_create_only
from ncbatch.store.uri import join_uri, open_store

__all__ = [
    "AccessDenied",
    "BucketNotFound",
    "DestinationRefused",
    "KeyRange",
    "LocalStore",
    "NotAFolder",
    "ObjectInfo",
    "ObjectNotFound",
    "Obstructed",
    "Store",
    "StoreError",
    "StoreFull",
    "StoreOptions",
    "StoreUnavailable",
    "honours_create_only",
    "join_uri",
    "key_of_name",
    "open_store",
    "prefix_of",
]
