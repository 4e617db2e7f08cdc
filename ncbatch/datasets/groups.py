"""In which order images are read, and by whom: what is decoded together is kept together."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Groups:
    """Rows of a table that are decoded together, such as those of a pack; groups of one row elsewhere.

    Attributes:
        first: the number of each group's first row; int64[groups].
        count: of each group's rows, which follow one another; int64[groups].
    """

    first: Numbers
    count: Numbers

    @staticmethod
    def of(keys: Sequence[object]) -> Groups:
        """Of rows that lie side by side where their keys are the same."""
        changes = [n for n in range(len(keys)) if n == 0 or keys[n] != keys[n - 1]]
        first = np.array(changes, dtype=np.int64)
        return Groups(first, np.diff(first, append=len(keys)))

    @staticmethod
    def single(rows: int) -> Groups:
        """So many rows, each a group."""
        return Groups(np.arange(rows, dtype=np.int64), np.ones(rows, dtype=np.int64))

    @property
    def images(self) -> int:
        """How many rows they have in all."""
        return int(self.count.sum())

    def shuffled(self, random: np.random.Generator) -> Groups:
        """The same in a random order."""
        order = random.permutation(len(self.first))
        return Groups(self.first[order], self.count[order])

    def shares(self, parts: int) -> list[Groups]:
        """Divides them: each group goes to the part that has the fewest rows so far."""
        if parts == 1:
            return [self]
        if len(np.unique(self.count)) <= 1:
            return [Groups(self.first[part::parts], self.count[part::parts]) for part in range(parts)]
        loads = [(0, part) for part in range(parts)]
        chosen: list[list[int]] = [[] for _ in range(parts)]
        for group, count in enumerate(self.count.tolist()):
            load, part = loads[0]
            heapq.heapreplace(loads, (load + count, part))
            chosen[part].append(group)
        return [Groups(self.first[groups], self.count[groups]) for groups in chosen]

    def cut(self, images: int) -> Groups:
        """The first so many rows."""
        before = np.cumsum(self.count) - self.count
        kept = before < images
        return Groups(self.first[kept], np.minimum(self.count, images - before)[kept])

    def spans(self, weights: Numbers, parts: int) -> list[Groups]:
        """Divides them into parts that follow one another and weigh about the same, none of them empty.

        Args:
            weights: of the rows, by their numbers.
            parts: how many there are at most.
        """
        ends = np.concatenate([[0], np.cumsum(weights)])
        weight = np.cumsum(ends[self.first + self.count] - ends[self.first])
        parts = max(min(parts, len(weight)), 1)
        middles = weight - np.diff(weight, prepend=0) / 2
        part = (middles * parts / weight[-1]).astype(np.int64) if len(weight) else weight
        return [Groups(self.first[part == p], self.count[part == p]) for p in np.unique(part)]

    def rows(self, random: np.random.Generator | None = None) -> Numbers:
        """The numbers of all rows, group after group, in a random order within each if there is one."""
        group = np.repeat(np.arange(len(self.first)), self.count)
        before = np.cumsum(self.count) - self.count
        numbers = np.arange(len(group)) + (self.first - before)[group]
        if random is None:
            return numbers
        return numbers[np.lexsort((random.random(len(group)), group))]
