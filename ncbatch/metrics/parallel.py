"""Many small requests to a store at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def in_parallel(
    function: Callable[[_Item], _Result], items: Iterable[_Item], threads: int = 16
) -> Iterator[_Result]:
    """`map` in threads, in order; stops fetching when the consumer stops or something fails."""
    remaining = iter(items)
    with ThreadPoolExecutor(threads, thread_name_prefix="requests") as pool:
        pending = [pool.submit(function, item) for item in islice(remaining, 4 * threads)]
        try:
            while pending:
                yield pending.pop(0).result()
                pending += [pool.submit(function, item) for item in islice(remaining, 1)]
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
