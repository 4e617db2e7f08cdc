"""Whether a store keeps the create-only promise."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor

from ncbatch.layout import PROBE_PREFIX
from ncbatch.store.interface import Store
from ncbatch.store.local import LocalStore

_RIVALS = 8


def honours_create_only(store: Store) -> bool:
    """Whether the store lets exactly one of several writers create an object.

    A local folder does. An S3 server is tried: two puts with `If-None-Match: *` one after the other, then
    eight at once, to fresh keys below `probe/` that are deleted afterwards. The first finds servers that
    ignore the condition, the second most of those that check it without a lock; False is certain, True is
    strong evidence.
    """
    if isinstance(store, LocalStore):
        return True
    from ncbatch.store.s3 import S3Store  # boto3; a folder is answered without it

    if not isinstance(store, S3Store):
        return True
    names = [f"{PROBE_PREFIX}{uuid.uuid4().hex}" for _ in range(2)]
    try:
        store.put_with_condition(names[0], b"first")
        if store.put_with_condition(names[0], b"second"):
            return False
        with ThreadPoolExecutor(_RIVALS) as rivals:
            created = rivals.map(lambda i: store.put_with_condition(names[1], b"%d" % i), range(_RIVALS))
            return sum(created) <= 1
    finally:
        for name in names:
            store.delete(name)
