import hashlib
import importlib
import io
import itertools
import json
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import pandas as pd  # type: ignore[import-untyped]
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from ncbatch.layout import part_key
from ncbatch.metrics.compact import CompactResult, compact
from ncbatch.metrics.errors import MetricsError
from ncbatch.metrics.parts import read_columns
from ncbatch.metrics.schema import parquet_to_table
from ncbatch.metrics.table import read_table
from ncbatch.store import Store

Commit = Callable[..., None]

compact_module = importlib.import_module("ncbatch.metrics.compact")  # the package has a function of that name


def contents(store: Store) -> dict[str, str]:
    return {info.key: info.etag for info in store.list()}


def test_nothing_to_compact(store: Store) -> None:
    assert compact(store) == CompactResult(parts=0, rows=0, units=0)
    assert contents(store) == {}


def test_idempotent_and_incremental(store: Store, commit: Commit) -> None:
    commit("u1", "a.png", "b.png")
    commit("u2", "c.png")
    before = read_table(store)
    assert compact(store) == CompactResult(parts=1, rows=3, units=2)
    assert read_table(store).equals(before)
    written = contents(store)
    assert compact(store) == CompactResult(parts=1, rows=3, units=2)
    assert contents(store) == written

    commit("u0", "d.png")
    assert read_table(store)["image_key"].to_pylist() == ["a.png", "b.png", "c.png", "d.png"]
    assert compact(store) == CompactResult(parts=2, rows=4, units=3)
    assert (
        written.items() <= contents(store).items()
    )  # nothing written earlier was touched, unit commits included
    assert len(read_table(store)) == 4


def test_the_parts_alone_suffice(store: Store, commit: Commit) -> None:
    for n in range(3):
        commit(f"u{n}", f"{n}.png")
        compact(store)
    assert [info.key for info in store.list("metrics/")] == [part_key(n) for n in (1, 2, 3)]
    for info in list(store.list("units/")):
        store.delete(info.key)
    assert len(read_table(store)) == 3


def test_parts_are_of_limited_size_and_keep_units_whole(
    store: Store, commit: Commit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compact_module, "PART_ROWS", 5)
    for n in range(6):
        commit(f"u{n}", f"{n}-a.png", f"{n}-b.png")
    commit("u9", *[f"9-{n}.png" for n in range(8)])  # larger than a part on its own
    assert compact(store) == CompactResult(parts=4, rows=20, units=7)
    rows = [len(parquet_to_table(store.get(part_key(n)))) for n in (1, 2, 3, 4)]
    assert rows == [4, 4, 4, 8]
    assert len(read_table(store)) == 20


def test_all_generations_are_kept(store: Store, commit: Commit) -> None:
    commit("u1", "a.png")
    commit("u2", "a.png", generation=1)
    assert compact(store).rows == 2
    assert len(read_table(store)) == 1


@pytest.mark.parametrize("others", [(), ("u2",)])
def test_a_compaction_that_loses_the_race_goes_on_from_the_winner(
    store: Store, commit: Commit, monkeypatch: pytest.MonkeyPatch, others: tuple[str, ...]
) -> None:
    commit("u1", "a.png")
    tables = compact_module._tables

    def overtaken(*arguments: object) -> object:
        monkeypatch.setattr(compact_module, "_tables", tables)
        for unit in others:
            commit(unit, f"{unit}.png")
        # Somebody else's, between our listing and our part.
        assert compact(store) == CompactResult(parts=1, rows=1 + len(others), units=1 + len(others))
        commit("u3", "c.png")
        return tables(*arguments)

    monkeypatch.setattr(compact_module, "_tables", overtaken)
    compact(store)
    total = 2 + len(others)
    assert compact(store) == CompactResult(parts=2, rows=total, units=total)
    assert len(read_table(store)) == total == len(_by_pandas(folder(store)))


def test_concurrent_compactions_and_commits(store: Store, commit: Commit) -> None:
    def work(thread: int) -> None:
        for n in range(12):
            commit(f"{thread}{n:02d}", f"{thread}-{n}.png")
            compact(store)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    result = compact(store)
    assert (result.rows, result.units) == (48, 48)
    assert len(set(read_table(store)["image_key"].to_pylist())) == len(read_table(store)) == 48


def folder(store: Store) -> Path:
    return Path(store.uri.removeprefix("file://")) / "metrics"


def _by_pandas(place: Path) -> list[str]:
    return list(pd.read_parquet(place)["image_key"])


def _by_dataset(place: Path) -> list[str]:
    return list(pyarrow.dataset.dataset(str(place), format="parquet").to_table()["image_key"].to_pylist())


def _by_duckdb(place: Path) -> list[str]:
    with duckdb.connect() as connection:
        return [key for (key,) in connection.sql(f"select image_key from '{place}/*.parquet'").fetchall()]


def _by_polars(place: Path) -> list[str]:
    polars = pytest.importorskip("polars")
    return list(polars.read_parquet(place)["image_key"])


READERS = (_by_pandas, _by_dataset, _by_duckdb, _by_polars)


@pytest.mark.parametrize("reader", READERS)
def test_others_read_the_folder_as_it_is_at_any_moment(
    store: Store, commit: Commit, monkeypatch: pytest.MonkeyPatch, reader: Callable[[Path], list[str]]
) -> None:
    """Whatever object is written: before and after it, no row is there twice, and none goes away again."""
    monkeypatch.setattr(compact_module, "PART_ROWS", 2)
    commit("u1", "0.png", "1.png")
    compact(store)
    seen = [reader(folder(store))]
    put = type(store)._write  # type: ignore[attr-defined]

    def watched(*arguments: object, **named: object) -> object:
        seen.append(reader(folder(store)))
        try:
            return put(*arguments, **named)
        finally:
            seen.append(reader(folder(store)))

    for n in range(2, 8):
        commit(f"u{n}", f"{n}.png")
    commit("u8", "0.png", generation=1)
    monkeypatch.setattr(type(store), "_write", watched)
    compact(store)
    monkeypatch.undo()
    seen.append(reader(folder(store)))
    assert len(seen) > 6
    for before, after in itertools.pairwise(seen):
        assert Counter(before) <= Counter(after)
    assert Counter(seen[-1]) == {"0.png": 2, **{f"{n}.png": 1 for n in range(1, 8)}}


@pytest.mark.parametrize("reader", READERS)
def test_the_folder_is_whole_while_several_compact_it(
    store: Store, commit: Commit, reader: Callable[[Path], list[str]]
) -> None:
    def work(thread: int) -> None:
        for n in range(6):
            commit(f"{thread}{n:02d}", f"{thread}-{n}.png")
            compact(store)

    commit("zz", "first.png")
    compact(store)
    with ThreadPoolExecutor(3) as pool:
        working = [pool.submit(work, thread) for thread in range(3)]
        while not all(future.done() for future in working):
            keys = reader(folder(store))
            assert len(set(keys)) == len(keys)
        for future in working:
            future.result()
    keys = reader(folder(store))
    assert len(keys) == len(set(keys)) == len(read_table(store)) == 19


def _old_layout(store: Store, *units: str) -> None:
    """As ncbatch wrote it before: parts named by their hash, one of them listed by no manifest."""
    parts = [parquet_to_table(store.get(f"units/{unit[:2]}/{unit}.parquet")) for unit in units]
    for name, table in (("a" * 16, pa.concat_tables(parts)), ("b" * 16, parts[0])):
        sink = io.BytesIO()
        pq.write_table(table, sink)
        store.put(f"metrics/part-{name}.parquet", sink.getvalue())
    content = {"version": 1, "parts": [{"key": f"metrics/part-{'a' * 16}.parquet"}], "units": list(units)}
    store.put("metrics/manifest-00000001.json", json.dumps(content).encode())


@pytest.mark.parametrize("reader", READERS)
def test_what_was_compacted_by_an_earlier_ncbatch_is_read_and_put_in_order(
    store: Store, commit: Commit, reader: Callable[[Path], list[str]]
) -> None:
    commit("u1", "a.png")
    commit("u2", "b.png")
    _old_layout(store, "u1", "u2")
    commit("u3", "c.png")
    before = read_table(store)
    assert before["image_key"].to_pylist() == ["a.png", "b.png", "c.png"]
    assert compact(store) == CompactResult(parts=1, rows=3, units=3)
    assert read_table(store).equals(before)
    assert [info.key for info in store.list("metrics/")] == [part_key(1)]
    assert sorted(reader(folder(store))) == ["a.png", "b.png", "c.png"]


def test_columns_of_a_part_are_read_without_the_rest(
    store: Store, commit: Commit, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit("u1", *(hashlib.sha256(b"%d" % n).hexdigest() for n in range(20_000)))
    compact(store)
    (info,) = store.list("metrics/")
    fetched: list[int] = []
    get_range = type(store).get_range

    def counted(self: Store, key: str, start: int, length: int) -> bytes:
        fetched.append(length)
        return get_range(self, key, start, length)

    monkeypatch.setattr(type(store), "get_range", counted)
    monkeypatch.setattr(type(store), "get", None)
    assert set(read_columns(store, info, ["unit"])["unit"].to_pylist()) == {"u1"}
    assert 0 < sum(fetched) < info.size / 2


def test_a_foreign_object_under_a_part_name_is_not_built_upon(store: Store, commit: Commit) -> None:
    commit("u1", "a.png")
    store.put(part_key(1), b"other bytes")
    with pytest.raises(MetricsError, match=r"^metrics/part-00000001\.parquet: .*can be deleted"):
        compact(store)
