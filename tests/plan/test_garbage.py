"""What nothing refers to is found, and nothing else is: least of all what an attempt may still adopt."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ncbatch import layout
from ncbatch.cli.main import main
from ncbatch.decoding.run_reader import RunReader
from ncbatch.driver.lease import Lease
from ncbatch.metrics.compact import compact
from ncbatch.models.loading import keep_model
from ncbatch.plan.garbage import find_garbage
from ncbatch.plan.plan_files import write_plan
from ncbatch.plan.retry import Retry
from ncbatch.plan.spec import RunSpec
from ncbatch.plan.units import Unit
from ncbatch.store import LocalStore
from ncbatch.worker.unit import open_attempt, run_unit
from tests.plan.test_retry import KILLED, failed_run
from tests.plan.test_units import images, units_of
from tests.workbench import ATTEMPTS, CHECKPOINT, Workbench, make_image

DEAD = "0badcafe-7"


def garbage(bench: Workbench, older_than: float = 0.0) -> set[str]:
    return {found.key for found in find_garbage(bench.output, older_than)}


def half_done(bench: Workbench) -> tuple[RunSpec, list[Unit]]:
    """Three images in units of their own, of which the first two are committed."""
    bench.add({f"{n}.png": make_image(seed=n) for n in range(3)})
    spec = bench.spec()
    units = list(bench.open(spec, pixels_per_unit=1).units)
    for unit in units[:2]:
        run_unit(bench.workspace(spec), unit, ATTEMPTS[0], {})
    return spec, units


def test_a_run_as_it_should_be_has_none(bench: Workbench) -> None:
    spec, (_, _, pending) = half_done(bench)
    assert garbage(bench) == set()
    list(open_attempt(bench.workspace(spec), pending, ATTEMPTS[0]).rows(pending.images, {}))
    bench.output.put(layout.wip_key(pending.id), b"state")
    bench.output.put(layout.trace_key(pending.id), b"trace")
    assert garbage(bench) == set(), "the next attempt adopts it"
    compact(bench.output)
    assert garbage(bench) == set()


def test_what_dead_attempts_left_is_found(bench: Workbench) -> None:
    _, (done, _, pending) = half_done(bench)
    left = {
        layout.bitstream_key("v", "0.png", 0, DEAD),  # past bytes that were of no use
        layout.bitstream_key("v", "0.png", 3),
        layout.bitstream_key("w", "2.png", 0),  # of a variant that the run does not have
        layout.pack_key("v", done.id, "0" * 64),
        layout.wip_key(done.id),
        layout.kept_prefix(done.id) + "0.safetensors",
        layout.trace_key("0" * 32),
        layout.PROBE_PREFIX + "0",
    }
    for key in left:
        bench.output.put(key, b"left")
    left |= set(write_plan(bench.output, units_of(images(3)), 5))
    awaited = layout.bitstream_key("v", "2.png", 0, DEAD)
    others = {awaited, layout.pack_key("v", pending.id, "1" * 64), "wip/notes.txt", "bitstream.txt"}
    for key in others:
        bench.output.put(key, b"needed, or somebody else's")
    assert garbage(bench) == left
    assert garbage(bench, older_than=3600) == set()


def test_what_a_newer_row_replaces_is_found_once_that_row_is_ok(local: Workbench) -> None:
    keep_model(local.output, CHECKPOINT)
    spec, _ = half_done(local)
    before = local.rows()["0.png"].bitstream_key
    local.add({"0.png": b"no image"})
    for unit in local.open(spec).pending:
        run_unit(local.workspace(spec), unit, ATTEMPTS[1], {})
    assert local.rows()["0.png"].status == "failed" and garbage(local) == set(), "it is all there is"
    local.add({"0.png": make_image(80, 64, seed=9)})
    pending = local.open(spec).pending
    assert garbage(local) == set()
    for unit in pending:
        run_unit(local.workspace(spec), unit, ATTEMPTS[2], {})
    after = local.rows()["0.png"].bitstream_key
    assert before != after and garbage(local) == {before}
    compact(local.output)
    (found,) = find_garbage(local.output, 0.0)
    assert (found.kind, found.key) == ("superseded", before)
    assert main(["gc", local.output.uri, "--delete", "--older-than", "0"]) == 0
    assert local.output.head(str(before)) is None
    assert all(finding.problem is None for finding in RunReader(local.output).verify())


def test_what_is_planned_again_does_not_need_what_failed(local: Workbench) -> None:
    spec = failed_run(local, {"a.png": KILLED})
    left = layout.bitstream_key("v", "a.png", 0)
    local.output.put(left, b"published by the attempt that was killed")
    assert garbage(local) == {left}
    local.open(spec, retry=Retry())
    assert garbage(local) == {left}


def test_an_object_of_unknown_age_is_left_alone(local: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    half_done(local)
    local.output.put(layout.bitstream_key("v", "0.png", 3), b"left")
    listed = LocalStore.list

    def without_time(store: LocalStore, prefix: str = "", **more: object) -> object:
        for info in listed(store, prefix):
            yield type(info)(info.key, info.size, info.etag)

    monkeypatch.setattr(LocalStore, "list", without_time)
    assert garbage(local) == set()


def test_commits_between_the_table_and_the_listing_are_seen(
    local: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, (_, _, pending) = half_done(local)
    published = layout.bitstream_key("v", "2.png", 0)
    monkeypatch.setattr(layout, "stem_of_bitstream", lambda key: None)  # as if it were not awaited
    listed = LocalStore.list

    def meanwhile(store: LocalStore, prefix: str = "", **more: object) -> object:
        if prefix == layout.BITSTREAMS_PREFIX:
            run_unit(local.workspace(spec), pending, ATTEMPTS[0], {})
        return listed(store, prefix)

    monkeypatch.setattr(LocalStore, "list", meanwhile)
    assert garbage(local) == set()
    assert local.rows()["2.png"].bitstream_key == published


# The command


def _told(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    capsys.readouterr()
    code = main(["gc", *words])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def test_the_command_counts_and_deletes_on_demand(
    local: Workbench, capsys: pytest.CaptureFixture[str]
) -> None:
    half_done(local)
    keep_model(local.output, CHECKPOINT)
    uri = local.output.uri
    left = layout.bitstream_key("v", "0.png", 3)
    local.output.put(left, b"left")
    before = local.rows()
    assert _told(capsys, uri) == (0, "no object that is old enough is without use\n")
    code, told = _told(capsys, uri, "--older-than", "0")
    assert code == 0 and "1 object without use, 4 B" in told
    assert told.splitlines()[-1] == f"`ncbatch gc {uri} --delete --older-than=0` deletes them"
    assert local.output.head(left) is not None
    found = json.loads(_told(capsys, uri, "--older-than", "0", "--json")[1])
    assert found == {
        "deleted": False, "bytes": 4, "objects": [{"kind": "bitstreams", "key": left, "size": 4}],
    }  # fmt: skip
    code, told = _told(capsys, uri, "--older-than", "0", "--delete")
    assert code == 0 and "deleted 1 object, 4 B" in told
    assert local.output.head(left) is None and local.output.head(layout.LEASE) is None
    assert local.rows() == before
    assert all(finding.problem is None for finding in RunReader(local.output).verify())


def test_nothing_is_deleted_while_a_driver_is_at_work(
    local: Workbench, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    half_done(local)
    left = layout.bitstream_key("v", "0.png", 3)
    local.output.put(left, b"left")
    lease = Lease(local.output)
    lease.take(force=False)
    monkeypatch.setattr("ncbatch.driver.lease.RENEW_SECONDS", 0.0)
    take = Lease.take

    def while_it_lives(other: Lease, *, force: bool) -> None:
        def renew(_: float) -> None:
            lease.renew()

        take(other, force=force, sleep=renew)

    monkeypatch.setattr(Lease, "take", while_it_lives)
    code, told = _told(capsys, local.output.uri, "--older-than=0", "--delete")
    assert code == 1 and "is being worked on, and nothing is deleted meanwhile" in told
    assert local.output.head(left) is not None
    assert _told(capsys, local.output.uri, "--older-than=0")[0] == 0, "it may be looked at"


def test_what_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, told = _told(capsys, str(tmp_path), "--delete")
    assert code == 1 and "holds no run" in told and len(told.splitlines()) == 1
