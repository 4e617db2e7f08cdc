"""Counts what a local folder is asked for as the requests that an S3 store would send for the same."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from ncbatch.store import LocalStore, ObjectInfo

KEYS_OF_A_PAGE = 1000
"""A listing is a request for each so many keys."""

requests: Counter[str] = Counter()
"""Of this process, by the kind of request."""

_lock, _inside = threading.Lock(), threading.local()

SENT = {
    "get": ("get",),
    "get_with_info": ("get",),
    "get_range": ("get",),
    "get_range_with_info": ("get",),
    "head": ("head",),
    "put": ("put",),
    "put_if_absent": ("head", "put", "head"),
    "delete": ("delete",),
    "check": ("list",),
}
"""What S3 is sent for a method of a store."""


def count_requests() -> None:
    """Counts, from now on, what every local store of this process is asked for."""
    for name, kinds in SENT.items():
        setattr(LocalStore, name, _counted(getattr(LocalStore, name), kinds))
    listing = LocalStore.list

    def counted(self: LocalStore, *arguments: Any, **named: Any) -> Iterator[ObjectInfo]:
        return pages(listing(self, *arguments, **named))

    LocalStore.list = counted  # type: ignore[method-assign]


def pages(listed: Iterator[ObjectInfo], kind: str = "list") -> Iterator[ObjectInfo]:
    """Passes a listing on, and counts its pages."""
    _count(kind)
    for number, info in enumerate(listed):
        if number and number % KEYS_OF_A_PAGE == 0:
            _count(kind)
        yield info


def _count(*kinds: str) -> None:
    with _lock:
        requests.update(kinds)


def _counted(method: Callable[..., Any], kinds: tuple[str, ...]) -> Callable[..., Any]:
    def counted(self: LocalStore, *arguments: Any, **named: Any) -> Any:
        if getattr(_inside, "counted", False):  # a put looks at what stands there, which is counted with it
            return method(self, *arguments, **named)
        _count(*kinds)
        _inside.counted = True
        try:
            return method(self, *arguments, **named)
        finally:
            _inside.counted = False

    return counted
