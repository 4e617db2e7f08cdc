"""Which unit a worker gets next."""

from __future__ import annotations

import heapq
import random
from collections.abc import Mapping
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ncbatch.driver.dealing import Deal, Kind
from ncbatch.driver.kinds import kinds_of
from ncbatch.plan.units import PlannedImage, make_units
from tests.workbench import Workbench, make_variant, sga


def taken(deal: Deal, last: str | None = None) -> str | None:
    with closing(deal.candidates(last)) as candidates:
        unit = next(candidates, None)
        if unit is not None:
            deal.take(unit)
    return unit


def dealt(kinds: Mapping[str, Kind], seconds: Mapping[str, float], workers: int) -> tuple[int, int, float]:
    """Changes of the model and of the images, and when the last of the workers is done."""
    order = {unit: n for n, unit in enumerate(sorted(seconds, key=lambda u: (-seconds[u], u)))}
    deal = Deal(order, kinds)
    for each in order:
        deal.put(each)
    ends: list[tuple[float, int, str | None]] = [(0.0, n, None) for n in range(workers)]
    models = images = 0
    while deal.waiting:
        now, worker, last = heapq.heappop(ends)
        unit = taken(deal, last)
        assert unit
        if last is not None:
            models += deal._kind(last).model != deal._kind(unit).model
            images += deal._kind(last).images != deal._kind(unit).images
        heapq.heappush(ends, (now + seconds[unit], worker, unit))
    return models, images, max(end for end, _, _ in ends)


@pytest.fixture
def paper() -> tuple[dict[str, Kind], dict[str, float]]:
    """Four methods over each of four models, and 40 units of images under each of them."""
    chance = random.Random(0)
    kinds, seconds = {}, {}
    for model in "abcd":
        for method in range(4):
            for images in range(1, 41):
                unit = f"{chance.random()}"
                kinds[unit] = Kind(model, images)
                seconds[unit] = 300.0 * chance.uniform(0.8, 1.2) / (method + 1)
    return kinds, seconds


def test_a_worker_keeps_its_model_and_its_images(paper: tuple[dict[str, Kind], dict[str, float]]) -> None:
    kinds, seconds = paper
    models, images, end = dealt(kinds, seconds, 16)
    *_, shortest = dealt({}, seconds, 16)
    assert models <= 16 * 3, "of 640 calls"
    assert images < 200, "the four methods of a model follow each other, unless another worker has begun one"
    assert end < 1.1 * shortest


def test_the_longest_comes_first_where_nothing_else_counts() -> None:
    deal = Deal({"long": 0, "short": 1})
    for unit in ("short", "long"):
        deal.put(unit)
    assert [taken(deal), taken(deal, "long"), taken(deal)] == ["long", "short", None]


def test_what_is_not_taken_waits_on() -> None:
    deal = Deal({"a": 0, "b": 1, "c": 2}, {"a": Kind("m"), "b": Kind("n"), "c": Kind("m")})
    for unit in "abc":
        deal.put(unit)
    with closing(deal.candidates("c")) as candidates:
        assert list(candidates) == ["a", "c", "b"], "first those of the model, and in the end all"
    with closing(deal.candidates("b")) as candidates:
        assert list(candidates) == ["b", "a", "c"]
    assert taken(deal, "b") == "b"
    deal.put("b")
    assert sorted(str(taken(deal)) for _ in range(3)) == ["a", "b", "c"]
    assert taken(deal) is None


@given(st.lists(st.tuples(st.sampled_from("pt"), st.integers(0, 11), st.integers(0, 11)), max_size=80))
def test_each_unit_is_dealt_once_for_each_time_that_it_waits(steps: list[tuple[str, int, int]]) -> None:
    units = [str(n) for n in range(12)]
    kinds = {unit: Kind("xyz"[n % 3], n % 4) for n, unit in enumerate(units)}
    deal, waiting = Deal({unit: n for n, unit in enumerate(units)}, kinds), set[str]()
    for what, number, last in steps:
        if what == "p":
            deal.put(units[number])
            waiting.add(units[number])
        else:
            unit = taken(deal, units[last])
            assert (unit is None) == (not waiting)
            if unit is not None:
                if any(kinds[other].model == kinds[units[last]].model for other in waiting):
                    assert kinds[unit].model == kinds[units[last]].model
                waiting.remove(unit)
    assert deal.waiting == waiting


def test_units_of_a_run_are_of_a_kind_by_model_and_images(local: Workbench) -> None:
    one, two = make_variant(name="one"), make_variant(sga(), name="two")
    images = [PlannedImage(f"{n}.png", "e", 1, 64, 64) for n in range(3)]
    units = [unit for v in (one, two) for unit in make_units(images, v.name, v.digest, 0, 64 * 64)]
    kinds = kinds_of(units, local.spec(one, two))
    assert len(set(kinds.values())) == 3, "of each image, under whichever method"
    assert {kind.model for kind in kinds.values()} == {one.model_digest}
    assert kinds_of(units, local.spec(one)) == {}
