"""Who is told that this process waits for a store: a call that is tried again for minutes has not hung."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

_listeners: list[Callable[[], None]] = []


@contextmanager
def told_of_waiting(listener: Callable[[], None]) -> Iterator[None]:
    """Within the block the listener is called before every further try of a request, in whatever thread."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def waits() -> None:
    """For a store: a request is to be tried again."""
    for listener in list(_listeners):
        listener()
