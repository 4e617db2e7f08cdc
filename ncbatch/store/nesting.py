"""Whether one store lies in another."""

from __future__ import annotations

import os

from ncbatch.store.interface import Store
from ncbatch.store.local import LocalStore
from ncbatch.store.local_names import key_of_name


def prefix_of(inner: Store, outer: Store) -> str | None:
    """What the keys of `outer` begin with that are also in `inner`; None where `inner` lies elsewhere.

    It is "" where both are the same place, and otherwise ends in "/". Links in the roots' paths are followed.
    """
    if isinstance(inner, LocalStore) and isinstance(outer, LocalStore):
        below, above = (os.path.realpath(os.fsencode(store.root)) + b"/" for store in (inner, outer))
        return key_of_name(below[len(above) :]) if below.startswith(above) else None
    return inner.uri[len(outer.uri) :] if inner.uri.startswith(outer.uri) else None
