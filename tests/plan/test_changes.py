"""Which inputs are new, changed, or the same under another etag; and when that is asked about."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ncbatch import layout
from ncbatch.decoding.repair import plan_repair
from ncbatch.errors import UsageError
from ncbatch.metrics.schema import rows_to_parquet
from ncbatch.plan import changes as changes_module
from ncbatch.plan.changes import Again, changes
from ncbatch.plan.commits import Commits
from ncbatch.plan.contents import Contents
from ncbatch.plan.generations import StandingRow
from ncbatch.plan.outlook import Outlook, outlook
from ncbatch.plan.retry import Retry
from ncbatch.plan.run import list_inputs
from ncbatch.plan.spec import RunSpec, read_run
from ncbatch.plan.units import PlannedImage, Unit
from ncbatch.store import LocalStore, StoreOptions
from ncbatch.worker.unit import run_unit
from tests.plan.test_units import images, units_of
from tests.workbench import ATTEMPTS, Workbench, encoded_as, make_image, make_variant

NAMES = [f"{n}.png" for n in range(4)]


def touch(bench: Workbench, *names: str, seconds: int = 1) -> None:
    """Another time of modification, as `touch` gives, and the same bytes."""
    assert isinstance(bench.corpus, LocalStore)
    for name in names:
        path = bench.corpus.root / name
        moment = path.stat().st_mtime_ns + seconds * 10**9
        os.utime(path, ns=(moment, moment))


def alter(bench: Workbench, name: str) -> None:
    """Other bytes of the same number, and another time."""
    assert isinstance(bench.corpus, LocalStore)
    path = bench.corpus.root / name
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    touch(bench, name)


def finished(bench: Workbench, *variants: str) -> RunSpec:
    bench.add({name: make_image(seed=n) for n, name in enumerate(NAMES)})
    spec = bench.spec(*(make_variant(name=name) for name in variants or ("v",)))
    work(bench, spec, bench.open(spec).units)
    return spec


def work(bench: Workbench, spec: RunSpec, units: list[Unit] | tuple[Unit, ...]) -> None:
    for unit in units:
        run_unit(bench.workspace(spec), unit, ATTEMPTS[unit.generation], {})


def pending(bench: Workbench, spec: RunSpec, retry: Retry | None = None) -> list[tuple[str, str]]:
    return [(u.variant, i.key) for u in bench.open(spec, retry=retry).pending for i in u.images]


def left(bench: Workbench, spec: RunSpec, retry: Retry | None = None) -> Outlook:
    listing = list_inputs(spec, bench.corpus, StoreOptions(), bench.output)
    return outlook(read_run(bench.output), listing.images, bench.corpus, bench.output, retry)


@pytest.fixture
def ranges(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """How often a part of each key was read."""
    counts: Counter[str] = Counter()
    get_range = LocalStore.get_range

    def counted(store: LocalStore, key: str, start: int, length: int) -> bytes:
        counts[key] += 1
        return get_range(store, key, start, length)

    monkeypatch.setattr(LocalStore, "get_range", counted)
    yield counts


def test_without_contents_another_etag_is_another_image() -> None:
    first = units_of(images(4))
    second = units_of([replace(images(4)[1], etag="new")], generation=1)
    assert changes(first, images(4)).due == []
    assert changes(first, images(6)).due == images(6)[4:]
    assert changes(first + second, images(4)).due == [images(4)[1]], "changed back, so changed again"
    assert changes(second + first, [replace(images(4)[1], etag="new")]).due == []
    assert changes(first, images(2)).due == [], "what is gone changes nothing"
    found = changes(first, [replace(images(4)[1], etag="new"), *images(6)[4:]])
    assert (found.new, found.changed, found.known) == (2, 1, 4)


def test_touched_files_are_compared_once_and_not_encoded_again(
    local: Workbench, ranges: Counter[str]
) -> None:
    spec = finished(local)
    before = local.rows()
    touch(local, *NAMES[:3])
    assert pending(local, spec) == []
    assert ranges == dict.fromkeys(NAMES[:3], 1)
    assert pending(local, spec) == [] and ranges.total() == 3, "what was read is kept"
    assert local.rows() == before
    touch(local, NAMES[0])
    assert pending(local, spec) == [] and ranges.total() == 4


def test_other_bytes_of_the_same_size_are_another_image(local: Workbench) -> None:
    spec = finished(local)
    alter(local, NAMES[1])
    touch(local, NAMES[2])
    local.add({NAMES[3]: make_image(80, 64, seed=9)})
    assert pending(local, spec) == [("v", NAMES[1]), ("v", NAMES[3])]
    work(local, spec, local.open(spec).pending)
    touch(local, *NAMES)
    assert pending(local, spec) == []


def test_a_row_that_does_not_know_its_content_leaves_the_etag_to_decide(local: Workbench) -> None:
    local.add({name: make_image(seed=n) for n, name in enumerate(NAMES)})
    spec = local.spec()
    unit = local.unit(spec)
    run_unit(local.workspace(spec), unit, ATTEMPTS[0], {})
    rows = [replace(row, image_sha256=None) for row in local.commit(unit)]
    local.output.put(layout.unit_key(unit.id), rows_to_parquet(rows))
    touch(local, NAMES[1])
    assert pending(local, spec) == [("v", NAMES[1])]


def test_what_a_variant_has_yet_to_do_is_done_under_the_new_etag(local: Workbench) -> None:
    local.add({name: make_image(seed=n) for n, name in enumerate(NAMES)})
    spec = local.spec(make_variant(name="v"), make_variant(name="w"))
    units = {unit.variant: unit for unit in local.open(spec).units}
    work(local, spec, [units["v"]])
    touch(local, NAMES[0])
    assert sorted(pending(local, spec)) == [("w", name) for name in NAMES]
    work(local, spec, local.open(spec).pending)
    assert pending(local, spec) == []
    table = Commits(local.output)
    assert table.failed_rows() == []


def test_what_failed_as_changed_while_it_was_touched_is_done_again(local: Workbench) -> None:
    local.add({name: make_image(seed=n) for n, name in enumerate(NAMES)})
    spec = local.spec(make_variant(name="v"), make_variant(name="w"))
    first, second = local.open(spec).units
    work(local, spec, [first])
    touch(local, NAMES[0])
    work(local, spec, [second])
    assert [row.error_class for row in Commits(local.output).failed_rows()] == ["changed"]
    assert pending(local, spec) == [(second.variant, NAMES[0])]
    assert pending(local, spec, Retry()) == [(second.variant, NAMES[0])]
    work(local, spec, local.open(spec).pending)
    assert Commits(local.output).failed_rows() == []


def test_a_failed_row_is_tried_again_under_the_etag_of_now(local: Workbench) -> None:
    local.add({"a.png": make_image(), "bad.png": b"text"})
    spec = local.spec()
    local.encode(spec)
    touch(local, "bad.png")
    assert pending(local, spec) == []
    assert pending(local, spec, Retry()) == [("v", "bad.png")]
    work(local, spec, local.open(spec, retry=Retry()).pending)
    assert local.rows()["bad.png"].error_class == "unreadable", "not: changed"


def test_a_touched_input_restores_what_was_lost(local: Workbench) -> None:
    spec = finished(local)
    touch(local, NAMES[0], NAMES[1])
    alter(local, NAMES[2])
    damaged = [StandingRow("v", name, 0, None) for name in NAMES[:3]]
    repair = plan_repair(local.output, local.corpus, damaged)
    assert repair.planned == 2 and [loss.image_key for loss in repair.losses] == [NAMES[2]]
    work(local, spec, [unit for unit in local.open(spec).pending if unit.generation == 1])
    rows = local.rows()
    assert [(rows[name].status, rows[name].generation) for name in NAMES[:2]] == [("ok", 1), ("ok", 1)]


def test_a_row_has_the_hash_of_its_input_wherever_that_was_read(bench: Workbench) -> None:
    import hashlib

    bench.add({"a.png": make_image(), "bad.png": b"text", "gone.png": make_image(seed=1)})
    spec = bench.spec()
    unit = bench.unit(spec)
    bench.corpus.delete("gone.png")
    run_unit(bench.workspace(spec), unit, ATTEMPTS[0], {})
    rows = bench.rows()
    for key, data in (("a.png", encoded_as(make_image())), ("bad.png", b"text")):
        assert rows[key].image_sha256 == hashlib.sha256(data).hexdigest()
    assert rows["gone.png"].image_sha256 is None


# Asking first


class Refused(Exception):  # noqa: N818 - not an error of ours
    pass


def refuse(again: Again) -> None:
    raise Refused(again.repeated, again.encodings)


def test_much_that_changed_is_asked_about(local: Workbench) -> None:
    local.add({f"{n:02}.png": make_image(seed=n) for n in range(40)})
    spec = local.spec(make_variant(name="v"), make_variant(name="w"))
    work(local, spec, local.open(spec).units)
    local.add({f"new{n}.png": make_image(seed=50 + n) for n in range(10)})
    local.open(spec, consent=refuse)  # new images are what the command is for
    for n in range(10):
        alter(local, f"{n:02}.png")
    local.open(spec, consent=refuse)  # 20 encodings of 100: few, though more than a twentieth
    for n in range(10, 21):
        alter(local, f"{n:02}.png")
    plan = local.keys("generations/")
    with pytest.raises(Refused) as refused:
        local.open(spec, consent=refuse)
    assert refused.value.args == (22, 100)
    assert local.keys("generations/") == plan, "nothing was planned"
    assert len(local.open(spec).pending[-1].images) == 11


def test_a_file_that_failed_and_was_replaced_is_not_asked_about(
    local: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    local.add({"a.png": make_image(), "bad.png": b"text"})
    spec = local.spec()
    local.encode(spec)
    local.add({"bad.png": make_image(seed=2)})
    (unit,) = local.open(spec, consent=refuse).pending
    assert [image.key for image in unit.images] == ["bad.png"]
    work(local, spec, [unit])
    alter(local, "bad.png")
    monkeypatch.setattr(changes_module, "MAY_CHANGE_AT_LEAST", 0)
    with pytest.raises(Refused):  # it has an encoding now
        local.open(spec, consent=refuse)


def test_what_is_tried_again_on_demand_is_not_asked_about(local: Workbench) -> None:
    local.add({"a.png": make_image(), "bad.png": b"text"})
    spec = local.spec()
    local.encode(spec)
    assert len(local.open(spec, retry=Retry(), consent=refuse).pending) == 1


@pytest.mark.parametrize(("answer", "goes_on"), [("y", True), ("Yes ", True), ("", False), ("n", False)])
def test_the_question_is_answered_at_a_terminal(
    answer: str, goes_on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ncbatch.cli import consent
    from ncbatch.cli.console import Console

    again = Again(changes([], [PlannedImage("a", "e", 1)]), {}, {}, 0, 400, 1000)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr(consent, "err", Console(force_terminal=True, quiet=True))
    monkeypatch.setattr("builtins.input", lambda: answer)
    if goes_on:
        consent.ask(again)
    else:
        with pytest.raises(UsageError, match="nothing was planned or encoded"):
            consent.ask(again)


def test_without_a_terminal_the_message_names_the_flag(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from ncbatch.cli.consent import ask

    found = replace(changes([], []), due=[PlannedImage("a", "e", 1)] * 400, known=1000)
    with (tmp_path / "nothing").open("w+") as file:
        monkeypatch.setattr("sys.stdin", file)
        with pytest.raises(UsageError, match=r"400 inputs have changed .* 400 of its 1,000 .* with --yes$"):
            ask(Again(found, {}, {}, 0, 400, 1000))


# What is left


def test_what_is_left_of_a_run_is_told_and_nothing_is_written(local: Workbench) -> None:
    local.add({**{name: make_image(seed=n) for n, name in enumerate(NAMES)}, "bad.png": b"text"})
    spec = local.spec()
    units = local.open(spec, pixels_per_unit=1).units  # one image each
    work(local, spec, [unit for unit in units if unit.images[0].key != NAMES[3]])
    found = left(local, spec)
    assert (found.encodings, found.done, found.pending, found.superseded) == (5, 4, 1, 0)
    assert found.failed == {"unreadable": 1} and found.retried == 0
    touch(local, NAMES[0])
    alter(local, NAMES[1])
    alter(local, NAMES[3])
    local.add({"new.png": make_image(seed=9)})
    before = {info.key: info.etag for info in local.output.list()}
    found = left(local, spec, Retry())
    assert {info.key: info.etag for info in local.output.list()} == before
    again = found.again.changes
    assert (again.new, again.changed, list(again.same)) == (1, 2, [NAMES[0]])
    assert (found.encodings, found.done, found.pending, found.superseded) == (6, 2, 0, 1)
    assert (found.retried, found.failed) == (1, {})
    assert sorted(image.key for image in found.wanted["v"]) == [NAMES[1], NAMES[3], "bad.png", "new.png"]
    planned = local.open(spec, retry=Retry())
    wanted = sorted(image.key for image in found.wanted["v"])
    assert sorted(image.key for unit in planned.pending for image in unit.images) == wanted
    found = left(local, spec)
    assert (found.pending, found.superseded, found.again.changes.due) == (4, 1, [])


def test_contents_of_a_damaged_object_are_read_again(local: Workbench, ranges: Counter[str]) -> None:
    spec = finished(local)
    touch(local, NAMES[0])
    assert pending(local, spec) == []
    (key,) = local.keys(layout.INPUTS_PREFIX)
    local.output.put(key, b"text")
    assert pending(local, spec) == [] and ranges[NAMES[0]] == 2
    assert Contents(local.corpus, local.output).same([]) == frozenset()
