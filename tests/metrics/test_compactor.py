"""Commits are merged as a run goes: nothing is lost or doubled, whatever is killed and whoever helps."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest

from ncbatch.layout import part_key, recent_key
from ncbatch.metrics import query as query_module
from ncbatch.metrics import sources, unit_commits
from ncbatch.metrics.compact import CompactResult, compact, fold, merge_recent
from ncbatch.metrics.compactor import Compactor
from ncbatch.metrics.objects import find_objects
from ncbatch.metrics.query import query
from ncbatch.metrics.summary import summarise
from ncbatch.metrics.table import read_table
from ncbatch.metrics.unit_commits import list_units
from ncbatch.store import LocalStore, ObjectInfo, Store, StoreUnavailable

Commit = Callable[..., None]


def names(count: int) -> list[str]:
    """Of units, as real ones are called."""
    return [hashlib.sha256(b"%d" % n).hexdigest()[:32] for n in range(count)]


def commit_all(commit: Commit, units: list[str]) -> list[str]:
    for n, unit in enumerate(units):
        commit(unit, f"{n:03}-a.png", f"{n:03}-b.png", bpp=float(n))
    return units


def keys(store: Store, prefix: str) -> list[str]:
    return [info.key for info in store.list(prefix)]


def by_others(store: Store) -> list[str]:
    """The images that a program finds in `metrics/` which knows nothing of ncbatch."""
    folder = Path(store.uri.removeprefix("file://")) / "metrics"
    if not folder.exists():
        return []
    return list(ds.dataset(str(folder), format="parquet").to_table()["image_key"].to_pylist())


def test_commits_are_folded_and_merged(store: Store, commit: Commit) -> None:
    units = commit_all(commit, names(7))
    before, summary = read_table(store), summarise(store)
    assert (fold(store, units[:3]), fold(store, units[3:6])) == (6, 6)
    assert keys(store, "recent/") == [recent_key(1), recent_key(2)]
    assert find_objects(store).loose == (units[6],)
    assert read_table(store).equals(before) and summarise(store) == summary
    assert fold(store, units[:6]) == 0, "they are folded already"
    assert merge_recent(store) == CompactResult(parts=1, rows=12, units=6)
    assert read_table(store).equals(before) and summarise(store) == summary
    assert sorted(by_others(store)) == sorted(key for key in before["image_key"].to_pylist() if key < "006")
    assert keys(store, "recent/") == [recent_key(1), recent_key(2)], "a reader may be at them"
    assert fold(store, [units[0], units[6]]) == 2
    assert compact(store) == CompactResult(parts=2, rows=14, units=7)
    assert keys(store, "recent/") == [recent_key(3)]
    assert compact(store) == CompactResult(parts=2, rows=14, units=7)
    assert keys(store, "recent/") == []
    assert read_table(store).equals(before) and summarise(store) == summary
    assert sorted(by_others(store)) == before["image_key"].to_pylist()


def test_a_number_that_is_given_again_does_no_harm(store: Store, commit: Commit) -> None:
    units = commit_all(commit, names(4))
    fold(store, units[:2])
    late = store.get(recent_key(1))
    merge_recent(store)
    merge_recent(store)
    assert keys(store, "recent/") == []
    store.put(recent_key(1), late)  # by a compactor that slept since before
    assert len(read_table(store)) == 8
    fold(store, units[2:])
    assert len(read_table(store)) == 8
    assert compact(store) == CompactResult(parts=2, rows=8, units=4)


def test_overlapping_folds_are_read_once(store: Store, commit: Commit) -> None:
    units = commit_all(commit, names(3))
    fold(store, units[:2])
    first = store.get(recent_key(1))
    store.delete(recent_key(1))
    fold(store, units[1:])
    store.put(recent_key(2), first)
    assert len(read_table(store)) == 6 and summarise(store).ok == 6
    assert find_objects(store).units == set(units)


def test_overlapping_parts_are_read_once(store: Store, commit: Commit) -> None:
    """As they may be where a store ignores create-only puts."""
    units = commit_all(commit, names(3))
    compact(store)
    store.put(part_key(2), store.get(part_key(1)))
    assert len(read_table(store)) == 6 and summarise(store).ok == 6
    assert find_objects(store).units == set(units)


class Dying(LocalStore):
    """A store whose process is killed at one of its writes: before it, or after it."""

    def __init__(self, store: LocalStore, write: int, *, after: bool) -> None:
        super().__init__(store.root, create=True)
        self.left, self.after = write, after

    def _count(self) -> bool:
        self.left -= 1
        return self.left == 0

    def put_if_absent(self, key: str, data: bytes) -> bool:
        dies = self._count()
        if dies and not self.after:
            raise KeyboardInterrupt
        done = super().put_if_absent(key, data)
        if dies:
            raise KeyboardInterrupt
        return done

    def delete(self, key: str) -> None:
        dies = self._count()
        if dies and not self.after:
            raise KeyboardInterrupt
        super().delete(key)
        if dies:
            raise KeyboardInterrupt


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("write", range(1, 8))
def test_killed_at_any_write(
    store: Store, commit: Commit, write: int, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ncbatch.metrics.compact.PART_ROWS", 6)
    units = commit_all(commit, names(8))
    before, summary = read_table(store), summarise(store)
    assert isinstance(store, LocalStore)

    def work(on: Store) -> None:
        fold(on, units[:2])
        fold(on, units[2:5])
        merge_recent(on)
        fold(on, units[5:7])
        compact(on)
        compact(on)

    with pytest.raises(KeyboardInterrupt):
        work(Dying(store, write, after=after))
    assert read_table(store).equals(before) and summarise(store) == summary
    found = by_others(store)
    assert len(set(found)) == len(found)
    work(store)
    assert read_table(store).equals(before) and summarise(store) == summary
    assert sorted(by_others(store)) == before["image_key"].to_pylist()
    assert keys(store, "recent/") == [] and find_objects(store).loose == ()


def test_several_at_once_and_readers(store: Store, commit: Commit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ncbatch.metrics.compact.PART_ROWS", 20)
    units = names(36)

    def work(thread: int) -> None:
        mine = units[thread::3]
        for n, unit in enumerate(mine):
            commit(unit, f"{thread}-{n}.png")
            if n % 3 == 2:
                fold(store, [*mine[n - 2 : n + 1], *units[:3]] if n > 3 else mine[: n + 1])
            if n % 6 == 5:
                (merge_recent if thread else compact)(store)

    with ThreadPoolExecutor(3) as pool:
        working = [pool.submit(work, thread) for thread in range(3)]
        seen = 0
        while not all(future.done() for future in working):
            found = read_table(store, columns=["image_key"])["image_key"].to_pylist()
            assert len(set(found)) == len(found) >= seen
            seen = len(found)
            others = by_others(store)
            assert len(set(others)) == len(others)
        for future in working:
            future.result()
    assert len(read_table(store)) == summarise(store).ok == 36
    assert compact(store).rows == len(by_others(store)) == 36


def test_a_thread_folds_what_it_is_told_of(store: Store, commit: Commit) -> None:
    units = commit_all(commit, names(23))
    before = read_table(store)
    with Compactor(store, units[:5], fold_units=4, part_rows=16) as compactor:
        for unit in units[5:]:
            compactor.committed(unit)
    found = find_objects(store)
    assert len(found.loose) == 3
    assert [len(part.units) for part in found.parts] == [8, 8]
    assert [len(part.units) for part in found.recent] == [4]
    assert read_table(store).equals(before)


def test_a_store_that_is_away_costs_no_row(
    store: Store, commit: Commit, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    units = commit_all(commit, names(8))
    before = read_table(store)
    put, away = LocalStore.put_if_absent, [True]

    def refused(self: LocalStore, key: str, data: bytes) -> bool:
        if away:
            away.pop()
            raise StoreUnavailable("the store is away; try again")
        return put(self, key, data)

    monkeypatch.setattr(LocalStore, "put_if_absent", refused)
    with Compactor(store, fold_units=4) as compactor:
        for unit in units:
            compactor.committed(unit)
    assert "the store is away" in caplog.text and "ncbatch compact" in caplog.text
    assert [part.units for part in find_objects(store).recent] == [frozenset(units[4:])]
    assert read_table(store).equals(before)


def test_what_is_replaced_while_it_is_read_is_read_again(
    store: Store, commit: Commit, monkeypatch: pytest.MonkeyPatch
) -> None:
    units = commit_all(commit, names(6))
    fold(store, units[:3])
    opened: list[object] = []
    find = query_module.find_objects

    def overtaken(on: Store, *, recent: bool = True) -> Any:
        found = find(on, recent=recent)
        if not opened:
            merge_recent(on)
            merge_recent(on)
            assert keys(store, "recent/") == []
        opened.append(found)
        return found

    monkeypatch.setattr(query_module, "find_objects", overtaken)
    assert query(store, "select count(*) as n, sum(bpp) as bpp from metrics").to_pylist() == [
        {"n": 12, "bpp": 30.0}
    ]
    assert len(opened) == 1


@pytest.mark.parametrize("count", [0, 3, 4, 200])
def test_many_commits_are_listed_by_prefix(store: Store, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(unit_commits, "_PAGE", 4)
    units = names(count)
    listed: list[str] = []

    class Listed(LocalStore):
        def list(self, prefix: str = "", **_: Any) -> Iterator[ObjectInfo]:
            listed.append(prefix)
            return (
                ObjectInfo(key, 1, "")
                for key in sorted(f"units/{unit[:2]}/{unit}.parquet" for unit in units)
                if key.startswith(prefix)
            )

    assert isinstance(store, LocalStore)
    assert list_units(Listed(store.root)) == sorted(units)
    assert len(listed) == {0: 1, 3: 1, 4: 17}.get(count, len(listed))
    assert len(set(listed)) == len(listed)


def test_many_loose_units_are_read_through_a_file(
    store: Store, commit: Commit, monkeypatch: pytest.MonkeyPatch
) -> None:
    units = commit_all(commit, names(9))
    fold(store, units[:4])
    commit("0" * 32, "000-a.png", bpp=50.0, generation=1)
    before = read_table(store)
    monkeypatch.setattr(sources, "_HELD_UNITS", 2)
    monkeypatch.setattr(sources, "_SPOOLED_ROWS", 4)
    assert read_table(store).equals(before)
    assert query(store, "select max(bpp) as bpp from metrics").to_pylist() == [{"bpp": 50.0}]
