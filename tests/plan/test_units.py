"""Plans: units are named by what is in them, and come back as they were written."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from ncbatch import layout
from ncbatch.errors import RunError
from ncbatch.plan import plan_files
from ncbatch.plan.comparison import differences, newest_by_key
from ncbatch.plan.image_table import image_table, pixels_of, total_pixels
from ncbatch.plan.plan_files import read_plan, write_plan
from ncbatch.plan.units import Keys, PlannedImage, Unit, make_units
from tests.workbench import Workbench


def images(count: int, side: int = 100) -> list[PlannedImage]:
    return [PlannedImage(f"{n:04}.png", f"etag{n}", 1000 + n, side, side) for n in range(count)]


def units_of(
    some: list[PlannedImage], *, variant: str = "v", digest: str = "d", generation: int = 0
) -> list[Unit]:
    return list(make_units(some, variant, digest, generation, pixels_per_unit=30_000))


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
    monkeypatch.setattr("ncbatch.plan.plan_files._ROWS_PER_FILE", rows_per_file)
    some = [*images(11), PlannedImage("../nasty\n%/日本", "", 0)]
    units = units_of(some) + units_of(some, variant="w")
    keys = write_plan(local.output, units, 0)
    assert len(keys) == (8 if rows_per_file < 6 else 1), "a unit is in one file"
    assert read_plan(local.output, keys) == units
    assert write_plan(local.output, units, 0) == keys, "named by content: a second try changes nothing"


def test_a_unit_may_go_on_in_the_next_file(local: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an earlier ncbatch wrote plans."""
    files = plan_files._files_of

    def cut_anywhere(units: Iterable[Unit]) -> Iterator[list[tuple[Any, ...]]]:
        (rows,) = files(units)
        yield from (rows[:4], rows[4:5], rows[5:])

    monkeypatch.setattr(plan_files, "_files_of", cut_anywhere)
    units = units_of(images(8))
    read = read_plan(local.output, write_plan(local.output, units, 0))
    assert read == units and [unit.pixels for unit in read] == [unit.pixels for unit in units]


def test_a_planned_unit_travels_without_its_images_and_reads_them_there(local: Workbench) -> None:
    units = units_of([*images(7, side=90), PlannedImage("z.webp", "e", 6000)])
    (first, *_, last) = read_plan(local.output, write_plan(local.output, units, 0))
    assert len(pickle.dumps(last)) < 1000
    again = pickle.loads(pickle.dumps(last))
    assert again == last == units[-1] and hash(again) == hash(last)
    assert again.images[-1] == units[-1].images[-1]
    assert (again.pixels, again.largest_pixels) == (last.pixels, 40_000)
    assert first != last and len(set(units) | {again, first}) == len(units)
    assert list(Keys(again.images)) == [image.key for image in units[-1].images]


def test_pixels_of_columns_are_those_of_the_images() -> None:
    keys = ("a.png", "a.PNG", "b.tiff", "c.webp", "d.jpg", "e", "png", "f.png.jpg", "g.bmp", "huge.webp")
    some = [PlannedImage(key, "e", 1_234_567 * n) for n, key in enumerate(keys)]
    some += [PlannedImage("h.jpg", "e", 10, 30, 40), PlannedImage("i.png", "e", 10, None, 40)]
    table = image_table(some)
    assert [int(n) for batch in table.batches() for n in pixels_of(batch)] == [i.pixels for i in some]
    assert table.pixels == sum(image.pixels for image in some) == total_pixels(some) == total_pixels(table)
    assert list(table) == some and table == some and table[2] == some[2] and table[1::4] == some[1::4]
    assert table != some[1:] and not image_table([])


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


# A listing beside a plan


def _differences_by_hand(
    planned: list[Unit], listed: list[PlannedImage]
) -> list[tuple[PlannedImage, PlannedImage | None]]:
    known = newest_by_key(planned)
    pairs = [(image, known.get(image.key)) for image in listed]
    return [(image, other) for image, other in pairs if other is None or other.etag != image.etag]


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("stored", [False, True])
def test_one_pass_finds_what_a_dictionary_finds(
    local: Workbench, seed: int, stored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ncbatch.plan.image_table._BATCH_ROWS", 5)
    monkeypatch.setattr("ncbatch.plan.comparison._READ", 3)
    random = Random(seed)
    every = images(40)
    first = sorted(random.sample(every, random.randrange(41)), key=lambda image: image.key)
    planned = units_of(first) + units_of(first, variant="w")
    for generation in range(1, random.randrange(3) + 1):
        some = sorted(random.sample(every, random.randrange(6)), key=lambda image: image.key)
        changed = [replace(image, etag=f"{image.etag}-{generation}") for image in some]
        planned += units_of(changed, variant=random.choice("vw"), generation=generation)
    share = random.choice([0, 0.05, 0.5])
    listed = [
        replace(image, etag="now") if random.random() < share else image
        for image in every
        if random.random() > share and (share or image in first)
    ]
    if seed % 5 == 0:
        random.shuffle(listed)
    if stored:
        plans = [(g, [u for u in planned if u.generation == g]) for g in range(4)]
        planned = [u for g, us in plans for u in read_plan(local.output, write_plan(local.output, us, g))]
    found, known = differences(planned, image_table(listed) if stored else listed)
    assert found == _differences_by_hand(planned, listed)
    assert known == len(newest_by_key(planned))


def test_a_listing_that_is_as_planned_makes_no_image(
    local: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = image_table(images(300))
    planned = read_plan(local.output, write_plan(local.output, units_of(images(300)), 0))
    monkeypatch.setattr("ncbatch.plan.comparison.planned_images", None)
    monkeypatch.setattr("ncbatch.plan.plan_files.planned_images", None)
    with pytest.raises(TypeError):
        differences(planned, image_table(images(301)))
    monkeypatch.setattr("ncbatch.plan.comparison.planned_images", lambda rows: iter([None] * len(rows)))
    assert differences(planned, listed) == ([], 300)
