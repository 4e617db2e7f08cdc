from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import duckdb
import pandas as pd  # type: ignore[import-untyped]
import pyarrow as pa
import pyarrow.dataset
import pytest

from ncbatch.layout import is_of_old_layout, number_of_part, part_key, unit_key, unit_of_key
from ncbatch.metrics.compact import compact
from ncbatch.metrics.errors import MetricsError
from ncbatch.metrics.objects import find_objects
from ncbatch.metrics.parallel import in_parallel
from ncbatch.metrics.query import open_table
from ncbatch.metrics.schema import SCHEMA
from ncbatch.metrics.table import read_table
from ncbatch.store import Store

Commit = Callable[..., None]


def keys_of(table: pa.Table) -> list[str]:
    return table["image_key"].to_pylist()


def folder(store: Store) -> Path:
    return Path(store.uri.removeprefix("file://"))


def test_keys() -> None:
    assert unit_key("abcdef") == "units/ab/abcdef.parquet"
    assert unit_of_key(unit_key("abcdef")) == "abcdef"
    assert unit_of_key("units/ab/readme.txt") is None
    assert part_key(3) == "metrics/part-00000003.parquet"
    assert number_of_part(part_key(12345678)) == 12345678
    assert number_of_part("metrics/part-0123456789abcdef.parquet") is None
    assert is_of_old_layout("metrics/part-0123456789abcdef.parquet")
    assert is_of_old_layout("metrics/manifest-00000003.json") and not is_of_old_layout(part_key(3))
    assert part_key(9) < part_key(10) < part_key(100)


def test_nothing_yet(store: Store) -> None:
    table = read_table(store)
    assert len(table) == 0 and table.schema.equals(SCHEMA, check_metadata=True)


def test_every_committed_row_is_there_in_order(store: Store, commit: Commit) -> None:
    commit("u2", "c.png", "a.png")
    commit("u1", "b.png")
    commit("u3", "a.png", variant="map")
    table = read_table(store)
    assert table.schema.equals(SCHEMA, check_metadata=True)
    assert [(row["image_key"], row["variant"], row["unit"]) for row in table.to_pylist()] == [
        ("a.png", "map", "u3"),
        ("a.png", "sga", "u2"),
        ("b.png", "sga", "u1"),
        ("c.png", "sga", "u2"),
    ]
    store.put("units/ab/note.txt", b"something else in the folder")
    assert len(read_table(store)) == 4


@pytest.mark.parametrize("compact_after", [(), (1,), (2,), (1, 2, 3)])
def test_newest_generation_wins(store: Store, commit: Commit, compact_after: tuple[int, ...]) -> None:
    for n, (unit, generation) in enumerate((("u5", 0), ("u1", 2), ("u9", 1)), start=1):
        commit(unit, "a.png", f"only-{generation}.png", generation=generation, bpp=float(generation))
        if n in compact_after:
            compact(store)
    table = read_table(store)
    assert keys_of(table) == ["a.png", "only-0.png", "only-1.png", "only-2.png"]
    assert table["generation"].to_pylist() == [2, 0, 1, 2]
    assert table["bpp"].to_pylist()[0] == 2.0


def test_rows_that_a_later_generation_replaces_are_left_out_without_holding_the_others(
    store: Store, commit: Commit
) -> None:
    """DuckDB holds the right side of an anti-join: what is newer, and not the whole table."""
    commit("u0", *(f"{n}.png" for n in range(300)))
    commit("u1", *(f"{n}.png" for n in range(100)), generation=1)
    compact(store)
    with open_table(store, replace(find_objects(store), versions="newer")) as table:
        assert table.query("select count(*) as rows from metrics")["rows"].to_pylist() == [300]
        (plan,) = table.query("explain select image_key, bpp from metrics")["explain_value"].to_pylist()
    assert "Join Type: ANTI" in plan and "CTE" not in plan, plan


def test_equal_generations_keep_one_row_and_always_the_same(store: Store, commit: Commit) -> None:
    commit("u1", "a.png")
    commit("u2", "a.png")
    first = read_table(store)
    compact(store)
    assert first["unit"].to_pylist() == read_table(store)["unit"].to_pylist() == ["u2"]


def test_columns(store: Store, commit: Commit) -> None:
    commit("u1", "a.png", bpp=1.0)
    commit("u2", "a.png", bpp=2.0, generation=1)
    assert read_table(store, columns=["psnr", "bpp"]).to_pylist() == [{"psnr": 32.0, "bpp": 2.0}]
    with pytest.raises(MetricsError, match=r"no column 'bits'.*bits_y"):
        read_table(store, columns=["bits"])


def test_readable_while_written(store: Store, commit: Commit) -> None:
    """A reader sees whole units, never fewer than before, while others commit and compact."""

    def write() -> None:
        for n in range(60):
            commit(f"{n:02d}x", f"{n}-a.png", f"{n}-b.png")
            if n % 15 == 14:
                compact(store)

    seen = 0
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        while not writing.done():
            rows = len(read_table(store))
            assert rows >= seen and rows % 2 == 0
            seen = rows
        writing.result()
    assert len(read_table(store)) == 120


def test_other_programs_read_the_unit_commits(store: Store, commit: Commit) -> None:
    commit("u1", "a.png", "b.png")
    commit("v1", "c.png")
    units = folder(store) / "units"
    with duckdb.connect() as connection:
        connection.execute(f"select count(*), avg(bpp) from '{units}/*/*.parquet'")
        assert connection.fetchall() == [(3, 0.5)]
    frame = pd.read_parquet(units)
    assert sorted(frame["image_key"]) == ["a.png", "b.png", "c.png"]
    assert list(frame.columns)[: len(SCHEMA.names)] == SCHEMA.names
    dataset = pyarrow.dataset.dataset(str(units), format="parquet")
    assert dataset.count_rows() == 3 and dataset.schema.names == SCHEMA.names


def test_a_foreign_file_among_the_commits_is_named(store: Store, commit: Commit) -> None:
    commit("u1", "a.png")
    store.put(unit_key("zz"), b"hello")
    with pytest.raises(MetricsError, match=r"^units/zz/zz\.parquet: "):
        read_table(store)


def _part(store: Store) -> str:
    (part,) = [info.key for info in store.list("metrics/")]
    return part


@pytest.mark.parametrize("damage", ["cut", "flipped", "text"])
def test_a_damaged_part_is_named_and_can_be_deleted(store: Store, commit: Commit, damage: str) -> None:
    commit("u1", *(f"{n}.png" for n in range(50)))
    compact(store)
    data = store.get(_part(store))
    middle = len(data) // 8
    flipped = data[:middle] + bytes(byte ^ 1 for byte in data[middle : middle + 64]) + data[middle + 64 :]
    store.put(_part(store), {"cut": data[:-9], "flipped": flipped, "text": b"text"}[damage])
    with pytest.raises(MetricsError, match=r"^metrics/part-00000001\.parquet: .* can be deleted"):
        read_table(store)
    store.delete(_part(store))  # what the message says
    assert len(read_table(store)) == 50, "they are read from the unit commits"
    compact(store)
    assert len(read_table(store)) == 50
    assert _part(store) == part_key(1)


def test_a_part_that_goes_while_it_is_read_is_no_loss(
    store: Store, commit: Commit, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit("u1", "a.png")
    compact(store)
    listed = list(store.list("metrics/"))
    store.delete(part_key(1))
    listing = type(store).list
    monkeypatch.setattr(
        type(store),
        "list",
        lambda self, prefix="": iter(listed) if prefix == "metrics/" else listing(self, prefix),
    )
    assert keys_of(read_table(store)) == ["a.png"]


def test_in_parallel_keeps_order_and_stops_early() -> None:
    assert list(in_parallel(lambda n: n * n, range(500))) == [n * n for n in range(500)]
    fetched: list[int] = []
    for result in in_parallel(lambda n: fetched.append(n) or n, range(10_000)):  # type: ignore[func-returns-value]
        if result == 3:
            break
    assert len(fetched) < 200
