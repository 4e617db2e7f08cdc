import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import pandas as pd  # type: ignore[import-untyped]
import pyarrow as pa
import pyarrow.dataset
import pytest

from ncbatch.metrics import SCHEMA, MetricsError, Row, compact, read_table, rows_to_parquet
from ncbatch.metrics.keys import manifest_key, number_of_manifest, part_key, unit_key, unit_of_key
from ncbatch.metrics.table import in_parallel
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
    assert part_key("0" * 64) == f"metrics/part-{'0' * 16}.parquet"
    assert manifest_key(3) == "metrics/manifest-00000003.json"
    assert number_of_manifest(manifest_key(123456789)) == 123456789
    assert manifest_key(9) < manifest_key(10) < manifest_key(100)


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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "damaged"),
        (b"[]", "damaged"),
        (b'{"version": 1, "parts": [{"key": "x"}], "units": []}', "damaged"),
        (b'{"version": 2, "tables": []}', "upgrade"),
    ],
)
def test_a_broken_manifest(store: Store, commit: Commit, content: bytes, message: str) -> None:
    commit("u1", "a.png")
    compact(store)
    store.put(manifest_key(2), content)
    with pytest.raises(MetricsError, match=rf"manifest-00000002\.json .*{message}"):
        read_table(store)


def test_a_missing_or_changed_part(store: Store, commit: Commit, make_row: Callable[..., Row]) -> None:
    commit("u1", "a.png")
    compact(store)
    (part,) = [info.key for info in store.list("metrics/part-")]
    store.put(part, rows_to_parquet([make_row("b.png")]))
    with pytest.raises(MetricsError, match="other bytes than were written"):
        read_table(store)
    store.delete(part)
    with pytest.raises(MetricsError, match=r"part-[0-9a-f]{16}\.parquet, .* is missing; delete metrics/"):
        read_table(store)
    shutil.rmtree(folder(store) / "metrics")  # what the message says
    compact(store)
    assert keys_of(read_table(store)) == ["a.png"]


def test_in_parallel_keeps_order_and_stops_early() -> None:
    assert list(in_parallel(lambda n: n * n, range(500))) == [n * n for n in range(500)]
    fetched: list[int] = []
    for result in in_parallel(lambda n: fetched.append(n) or n, range(10_000)):  # type: ignore[func-returns-value]
        if result == 3:
            break
    assert len(fetched) < 200
