import importlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from ncbatch.metrics import CompactResult, MetricsError, compact, parquet_to_table, read_table
from ncbatch.metrics.keys import manifest_key
from ncbatch.store import Store

Commit = Callable[..., None]

compact_module = importlib.import_module("ncbatch.metrics.compact")  # the package has a function of that name


def contents(store: Store) -> dict[str, str]:
    return {info.key: info.etag for info in store.list()}


def test_nothing_to_compact(store: Store) -> None:
    assert compact(store) == CompactResult(manifest=0, parts=0, rows=0, units=0)
    assert contents(store) == {}


def test_idempotent_and_incremental(store: Store, commit: Commit) -> None:
    commit("u1", "a.png", "b.png")
    commit("u2", "c.png")
    before = read_table(store)
    assert compact(store) == CompactResult(manifest=1, parts=1, rows=3, units=2)
    assert read_table(store).equals(before)
    written = contents(store)
    assert compact(store) == CompactResult(manifest=1, parts=1, rows=3, units=2)
    assert contents(store) == written

    commit("u0", "d.png")
    assert read_table(store)["image_key"].to_pylist() == ["a.png", "b.png", "c.png", "d.png"]
    assert compact(store) == CompactResult(manifest=2, parts=2, rows=4, units=3)
    assert (
        written.items() <= contents(store).items()
    )  # nothing written earlier was touched, unit commits included
    assert len(read_table(store)) == 4


def test_the_newest_manifest_alone_suffices(store: Store, commit: Commit) -> None:
    for n in range(3):
        commit(f"u{n}", f"{n}.png")
        compact(store)
    manifest = json.loads(store.get(manifest_key(3)))
    assert manifest["version"] == 1 and sorted(manifest["units"]) == ["u0", "u1", "u2"]
    for part in manifest["parts"]:
        assert len(parquet_to_table(store.get(part["key"]))) == part["rows"] == 1
        assert part["key"] == f"metrics/part-{part['sha256'][:16]}.parquet"
    store.delete(manifest_key(1))
    store.delete(manifest_key(2))
    for info in list(store.list("units/")):
        store.delete(info.key)
    assert len(read_table(store)) == 3


def test_parts_are_of_limited_size_and_keep_units_whole(
    store: Store, commit: Commit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compact_module, "_PART_ROWS", 5)
    for n in range(6):
        commit(f"u{n}", f"{n}-a.png", f"{n}-b.png")
    commit("u9", *[f"9-{n}.png" for n in range(8)])  # larger than a part on its own
    assert compact(store) == CompactResult(manifest=1, parts=4, rows=20, units=7)
    rows = [part["rows"] for part in json.loads(store.get(manifest_key(1)))["parts"]]
    assert rows == [4, 4, 4, 8]
    assert len(read_table(store)) == 20


def test_all_generations_are_kept(store: Store, commit: Commit) -> None:
    commit("u1", "a.png")
    commit("u2", "a.png", generation=1)
    assert compact(store).rows == 2
    assert len(read_table(store)) == 1


def test_a_compaction_that_loses_the_race_goes_on_from_the_winner(
    store: Store, commit: Commit, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit("u1", "a.png")
    write_part = compact_module._write_part

    def overtaken(*arguments: object) -> object:
        monkeypatch.setattr(compact_module, "_write_part", write_part)
        assert compact(store).manifest == 1  # somebody else's, between our listing and our manifest
        commit("u2", "b.png")
        return write_part(*arguments)

    commit("u0", "c.png")
    monkeypatch.setattr(compact_module, "_write_part", overtaken)
    # Same units, same parts: that manifest is the very one we were about to write, so it counts as ours.
    assert compact(store).manifest == 1
    assert compact(store) == CompactResult(manifest=2, parts=2, rows=3, units=3)
    assert len(read_table(store)) == 3


def test_a_lost_race_with_other_units(store: Store, commit: Commit, monkeypatch: pytest.MonkeyPatch) -> None:
    commit("u1", "a.png")
    write_part = compact_module._write_part

    def overtaken(*arguments: object) -> object:
        monkeypatch.setattr(compact_module, "_write_part", write_part)
        commit("u2", "b.png")
        assert compact(store) == CompactResult(manifest=1, parts=1, rows=2, units=2)
        commit("u3", "c.png")
        return write_part(*arguments)

    monkeypatch.setattr(compact_module, "_write_part", overtaken)
    assert compact(store) == CompactResult(manifest=2, parts=2, rows=3, units=3)
    assert read_table(store)["image_key"].to_pylist() == ["a.png", "b.png", "c.png"]


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


def test_a_foreign_object_under_a_part_name_is_not_built_upon(store: Store, commit: Commit) -> None:
    commit("u1", "a.png")
    compact(store)
    (part,) = [info.key for info in store.list("metrics/part-")]
    store.put(part, b"other bytes")
    store.delete(manifest_key(1))
    with pytest.raises(MetricsError, match="other bytes than its name says"):
        compact(store)
    assert store.head(manifest_key(1)) is None
