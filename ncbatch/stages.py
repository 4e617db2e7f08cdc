"""Work beside the main thread, so that a device need not wait: what comes next, and what is left to do.

The calling thread keeps a device busy, or writes results in their order. An `Ahead` stage prepares what that
thread will ask for, a `Behind` stage goes on with what it hands over; both keep the order of the items, bound
how much they hold, raise what their threads raise in the calling thread, and leave no thread behind.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Generic, TypeVar

import torch
from typing_extensions import Self, override

Item = TypeVar("Item")
Result = TypeVar("Result")

EVERYTHING = 1 << 62
"""More than any bound: there is room for it only where nothing is under way."""


class _Entry(Generic[Result]):
    """One item's work. weight: of the item."""

    def __init__(self, future: Future[Result], weight: int) -> None:
        self.future, self.weight = future, weight


class _Stage(Generic[Item, Result]):
    """Threads that do something with items; to be used as a context, which ends them.

    Args:
        work: what is done with each item.
        weight: of an item.
        threads: how many items are worked on at once.
        bound: of the weights that the stage holds. One item it holds in any case, however heavy.
        in_turn: which items are worked on one after the other, in a thread beside those.
    """

    def __init__(
        self,
        work: Callable[[Item], Result],
        weight: Callable[[Item], int],
        threads: int,
        bound: int,
        in_turn: Callable[[Item], bool] = lambda item: False,
    ) -> None:
        self._work, self._weight, self._bound, self._is_in_turn = work, weight, bound, in_turn
        self._entries: deque[_Entry[Result]] = deque()
        # With OpenMP, the number of threads that torch computes with is a setting of each thread.
        setting = type(self).__name__, torch.set_num_threads, (torch.get_num_threads(),)
        self._executor, self._in_turn = (ThreadPoolExecutor(n, *setting) for n in (threads, 1))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the threads: waits for what they are at, and drops what they have not begun."""
        for executor in (self._executor, self._in_turn):
            executor.shutdown(wait=False, cancel_futures=True)
        for executor in (self._executor, self._in_turn):
            executor.shutdown(wait=True)
        self._entries.clear()

    def _submit(self, item: Item) -> None:
        executor = self._in_turn if self._is_in_turn(item) else self._executor
        self._entries.append(_Entry(executor.submit(self._work, item), self._weight(item)))

    def _take(self) -> Result:
        """The result of the oldest item, waited for."""
        return self._entries.popleft().future.result()


class Ahead(_Stage[Item, Result]):
    """Does something with items before they are asked for.

    Args:
        result_weight: of what was made of an item, until it is taken; by default that of any is 1.
        Others: see `_Stage`.
    """

    def __init__(
        self,
        work: Callable[[Item], Result],
        weight: Callable[[Item], int],
        threads: int,
        bound: int,
        result_weight: Callable[[Result], int] = lambda result: 1,
        in_turn: Callable[[Item], bool] = lambda item: False,
    ) -> None:
        super().__init__(work, weight, threads, bound, in_turn)
        self._result_weight = result_weight

    def of(self, items: Iterable[Item]) -> Iterator[Result]:
        """What is made of each item, in their order; work begins at once.

        Raises:
            BaseException: as the work on an item raises, when it is that item's turn.
        """
        coming = iter(items)
        following = self._submitted(next(coming, None), coming)

        def results() -> Iterator[Result]:
            nonlocal following
            while self._entries:
                yield self._take()
                following = self._submitted(following, coming)

        return results()

    def _submitted(self, item: Item | None, coming: Iterator[Item]) -> Item | None:
        """Submits an item and those that come next, as long as there is room; the first that has none."""
        while item is not None:
            if self._entries and self._held() + self._weight(item) > self._bound:
                break
            self._submit(item)
            item = next(coming, None)
        return item

    def is_ready(self) -> bool:
        """Whether the next result is there: to be taken without waiting for it."""
        return bool(self._entries) and self._entries[0].future.done()

    def _held(self) -> int:
        return sum(self._weight_of(entry) for entry in self._entries)

    def _weight_of(self, entry: _Entry[Result]) -> int:
        if not entry.future.done():
            return entry.weight
        return 0 if entry.future.exception() else self._result_weight(entry.future.result())


class Behind(_Stage[Item, Result]):
    """Goes on with items that are handed over, while the calling thread makes further ones. Only items that
    are not done count towards the bound: results are small.
    """

    def after(self, items: Iterable[Item]) -> Iterator[Result]:
        """What is made of each item, in their order, once it is there; items are taken from the iterator in
        the calling thread.

        Raises:
            BaseException: as the work on an item raises; at the next opportunity, which may be before the
                results of items in front of it are yielded.
        """
        for item in items:
            self.make_room(self._weight(item))
            self._submit(item)
            self._check()
            while self._entries and self._entries[0].future.done():
                yield self._take()
        while self._entries:
            yield self._take()

    def make_room(self, weight: int = EVERYTHING) -> bool:
        """Waits until something of this weight may be done beside what is under way, by default until
        everything that was handed over is done.

        Returns:
            whether anything is still under way.

        Raises:
            BaseException: as the work on an item raised.
        """
        while busy := [entry for entry in self._entries if not entry.future.done()]:
            if sum(entry.weight for entry in busy) + weight <= self._bound:
                break
            wait([entry.future for entry in busy], return_when=FIRST_COMPLETED)
        self._check()
        return bool(busy)

    @override
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the threads. After an error elsewhere, what was handed over is still done, since it may have
        taken long to make; but not after an error of this stage, nor when the program is to end.
        """
        try:
            if kind is not None and issubclass(kind, Exception):
                while self._entries and self._entries.popleft().future.exception() is None:
                    pass
        finally:
            super().__exit__(kind, error, trace)

    def _check(self) -> None:
        for entry in self._entries:
            if entry.future.done() and entry.future.exception() is not None:
                entry.future.result()
