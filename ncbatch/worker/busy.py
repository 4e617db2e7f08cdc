"""Counts the time in which a worker's device computes, for its idle share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from ncbatch.telemetry import instruments

Item = TypeVar("Item")


class Busy:
    """Of one batch: its device computes while results are made, except where that waits for others."""

    def __init__(self) -> None:
        self._end: Callable[[], None] = lambda: None

    def made(self, results: Iterable[Item]) -> Iterator[Item]:
        """The results; the time that the next one takes counts, and not what is done with it."""
        iterator = iter(results)
        while True:
            self._end = instruments.BUSY_SECONDS.begin()
            try:
                item = next(iterator)
            except StopIteration:
                return
            finally:
                self._end()
            yield item

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Within the block, time does not count: the device waits for others."""
        self._end()
        try:
            yield
        finally:
            self._end = instruments.BUSY_SECONDS.begin()
