"""Which images are read by whom, and in which order."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ncbatch.datasets.groups import Groups
from ncbatch.datasets.run_dataset import mixed

SIZES = st.lists(st.integers(1, 5), min_size=1, max_size=20)


def of_sizes(sizes: list[int]) -> Groups:
    return Groups.of([n for n, size in enumerate(sizes) for _ in range(size)])


@given(SIZES, st.integers(1, 6), st.integers(0, 9))
def test_shares_hold_each_row_once_and_are_about_as_large(sizes: list[int], parts: int, seed: int) -> None:
    groups = of_sizes(sizes).shuffled(np.random.default_rng(seed))
    shares = groups.shares(parts)
    rows = np.concatenate([share.rows() for share in shares])
    assert sorted(rows.tolist()) == list(range(sum(sizes)))
    images = [share.images for share in shares]
    assert max(images) - min(images) <= max(sizes)
    fewest = min(images)
    assert [share.cut(fewest).rows().tolist() for share in shares] == [
        share.rows()[:fewest].tolist() for share in shares
    ]


@given(SIZES, st.integers(1, 30))
def test_spans_follow_one_another_and_keep_groups_together(sizes: list[int], parts: int) -> None:
    groups = of_sizes(sizes)
    weights = np.arange(1, sum(sizes) + 1)
    spans = groups.spans(weights, parts)
    assert 1 <= len(spans) <= parts and all(span.images for span in spans)
    assert np.concatenate([span.first for span in spans]).tolist() == groups.first.tolist()
    heaviest = max(int(weights[span.rows()].sum()) for span in spans)
    largest = max(
        int(weights[first : first + n].sum()) for first, n in zip(groups.first, groups.count, strict=True)
    )
    assert heaviest <= weights.sum() / min(parts, len(sizes)) + largest


def test_a_random_order_keeps_groups_together() -> None:
    groups = of_sizes([3, 1, 4]).shuffled(np.random.default_rng(1))
    rows = groups.rows(np.random.default_rng(2)).tolist()
    assert sorted(rows) == list(range(8)) and rows != groups.rows().tolist()
    group_of = [0, 0, 0, 1, 2, 2, 2, 2]
    told = [group_of[row] for row in rows]
    assert len([1 for a, b in pairwise(told) if a != b]) == 2


def test_no_rows_are_no_groups() -> None:
    assert Groups.of([]).images == 0 and Groups.single(0).rows().tolist() == []


@pytest.mark.parametrize("held", [1, 3, 50])
def test_a_buffer_gives_each_item_once(held: int) -> None:
    found = list(mixed(iter(range(20)), held, np.random.default_rng(0)))
    assert sorted(found) == list(range(20)) and (held == 1 or found != list(range(20)))
    early = [place - item for place, item in enumerate(found)]
    assert min(early) >= -held, "an item comes no earlier than the buffer allows"
