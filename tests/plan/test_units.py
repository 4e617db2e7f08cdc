"""Plans: units are named by what is in them, and come back as they were written."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ncbatch import layout
from ncbatch.errors import RunError
from ncbatch.plan.units import PlannedImage, Unit, make_units, read_plan, write_plan
from tests.workbench import Workbench


def images(count: int, side: int = 100) -> list[PlannedImage]:
    return [PlannedImage(f"{n:04}.png", f"etag{n}", 1000 + n, side, side) for n in range(count)]


def units_of(
    some: list[PlannedImage], *, variant: str = "v", digest: str = "d", generation: int = 0
) -> list[Unit]:
    return make_units(some, variant, digest, generation, pixels_per_unit=30_000)


def test_units_hold_every_image_once_in_order_and_are_of_a_size() -> None:
    units = units_of(images(32))
    assert [image for unit in units for image in unit.images] == images(32)
    assert [len(unit.images) for unit in units] == [3] * 10 + [2]
    assert len({unit.id for unit in units}) == len(units)


def test_a_large_image_is_a_unit_of_its_own() -> None:
    small, large = images(2), [PlannedImage("large.png", "e", 1, 5000, 5000)]
    assert [len(unit.images) for unit in units_of([*small, *large, *small])] == [2, 1, 2]


def test_images_of_unknown_size_count_by_their_bytes() -> None:
    photograph, lossless = PlannedImage("a.jpg", "e", 4_000), PlannedImage("a.PNG", "e", 200_000)
    assert photograph.pixels == 10_000
    assert lossless.pixels == 100_000
    assert PlannedImage("empty.jpg", "e", 0).pixels > 0
    assert PlannedImage("backup", "e", 10**12).pixels == 10**8, "whatever it is, it is no such image"


def test_the_same_images_make_the_same_units() -> None:
    assert units_of(images(10)) == units_of(images(10))


def test_every_part_of_the_content_names_a_unit() -> None:
    (base,) = units_of(images(2))
    first, second = images(2)
    others = [
        units_of(images(2), variant="w"),
        units_of(images(2), digest="e"),
        units_of(images(2), generation=1),
        units_of(images(3)),
        units_of([second, first]),
        units_of([first, replace(second, etag="changed")]),
        units_of([first, replace(second, key="other.png")]),
    ]
    ids = {unit.id for (unit,) in others} | {base.id}
    assert len(ids) == 1 + len(others)


def test_keys_cannot_be_shifted_into_etags() -> None:
    (one,) = units_of([PlannedImage("a b", "c", 1)])
    (other,) = units_of([PlannedImage("a", "b c", 1)])
    assert one.id != other.id


@pytest.mark.parametrize("rows_per_file", [1, 2, 5, 1000])
def test_a_plan_comes_back(local: Workbench, monkeypatch: pytest.MonkeyPatch, rows_per_file: int) -> None:
    monkeypatch.setattr("ncbatch.plan.units._ROWS_PER_FILE", rows_per_file)
    some = [*images(11), PlannedImage("../nasty\n%/日本", "", 0)]
    units = units_of(some) + units_of(some, variant="w")
    keys = write_plan(local.output, units, 0)
    assert len(keys) == max(24 // rows_per_file, 1) + (rows_per_file == 5)
    assert read_plan(local.output, keys) == units
    assert write_plan(local.output, units, 0) == keys, "named by content: a second try changes nothing"


def test_plans_of_different_content_do_not_meet(local: Workbench) -> None:
    one = write_plan(local.output, units_of(images(3)), 1)
    other = write_plan(local.output, units_of(images(4)), 1)
    assert set(one).isdisjoint(other)


@pytest.mark.parametrize("damage", ["cut", "other", "flipped"])
def test_a_damaged_plan_is_said_to_be(local: Workbench, damage: str) -> None:
    (key,) = write_plan(local.output, units_of(images(50)), 0)
    data = local.output.get(key)
    middle = bytes(255 - byte for byte in data[4:200])
    local.output.put(
        key, {"cut": data[:-5], "other": b"text", "flipped": data[:4] + middle + data[200:]}[damage]
    )
    with pytest.raises(RunError, match=r"the plan .*parquet is damaged; restore it"):
        read_plan(local.output, [key])


def test_a_missing_plan_is_said_to_be(local: Workbench) -> None:
    with pytest.raises(RunError, match=r"plan/00000-abc-00000\.parquet is missing"):
        read_plan(local.output, [layout.plan_key(0, "abc", 0)])
