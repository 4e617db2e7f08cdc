"""How far long work on many items is, as a line in the log every ten seconds."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

log = logging.getLogger(__name__)

_LINE_SECONDS = 10.0

_Item = TypeVar("_Item")


def logged(items: Iterable[_Item], done: str, total: int | None = None) -> Iterator[_Item]:
    """Passes items on, and logs how many there were.

    Args:
        done: what has happened to an item that came by, such as "compared".
        total: how many there will be, where that is known.
    """
    of = "" if total is None else f" of {total:,}"
    at = time.monotonic()
    for number, item in enumerate(items, 1):
        yield item
        if time.monotonic() - at >= _LINE_SECONDS:
            at = time.monotonic()
            log.info("%s %s%s", done, f"{number:,}", of)
