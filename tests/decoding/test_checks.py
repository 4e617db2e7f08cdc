"""Verification and decoding in units, without a cluster: what is planned, committed and merged."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from ncbatch import layout
from ncbatch.codec.methods import Jpeg
from ncbatch.decoding.check_plan import (
    Check,
    Cutting,
    Scope,
    check_columns,
    cut,
    next_name,
    open_checks,
    plan_check,
    read_check,
)
from ncbatch.decoding.check_unit import CheckTask, UnitChecker
from ncbatch.decoding.chosen_rows import chosen_rows
from ncbatch.decoding.destination import Destination
from ncbatch.decoding.sample import Sample, sample_of
from ncbatch.metrics.failures import Failure
from ncbatch.metrics.findings import merge_findings, problems_found
from ncbatch.metrics.query import open_table, query
from ncbatch.plan.spec import Variant
from ncbatch.store import open_store
from ncbatch.worker.unit import run_unit
from tests.workbench import ATTEMPTS, Workbench, make_image

_JPEG = Variant(name="jpeg", recipe=Jpeg(quality=60))
_KEYS = [f"{n}.png" for n in range(6)]


def _encoded(bench: Workbench, *variants: Variant, pixels_per_unit: int = 10**12) -> None:
    bench.add({key: make_image(seed=n) for n, key in enumerate(_KEYS)})
    spec = bench.spec(*variants)
    for unit in bench.open(spec, pixels_per_unit=pixels_per_unit).units:
        run_unit(bench.workspace(spec), unit, ATTEMPTS[0], {})


def _planned(bench: Workbench, cutting: Cutting, kind: str = "verify", sample: Sample | None = None) -> Check:
    scope = Scope(kind=kind, sample=sample.text if sample else None)
    name = next_name(bench.output, kind)
    work = open_store(bench.output.uri + layout.checking_prefix(name), create=True)
    with open_table(bench.output) as table:
        sql = chosen_rows(table, check_columns(), None, sample, name)
        check = plan_check(bench.output, name, work, scope, table, sql, cutting)
    assert check is not None
    return check


def _checker(bench: Workbench, check: Check, destination: Destination | None = None) -> UnitChecker:
    models = bench.workspace(bench.spec(_JPEG)).models
    return UnitChecker(CheckTask(check.name, bench.output, check.work, destination), models)


def test_units_hold_what_is_asked_for(local: Workbench) -> None:
    _encoded(local, _JPEG)
    cutting = Cutting({"jpeg": 2 * 64 * 64}, frozenset())
    check = _planned(local, cutting)
    units = check.units()
    assert [len(unit.images) for unit in units] == [2, 2, 2]
    assert sorted(image.key for unit in units for image in unit.images) == _KEYS
    assert open_checks(local.output) == ["verify-00000001"]
    assert read_check(local.output, check.name) == check.file and check.file.rows == 6


def test_no_pack_is_cut() -> None:
    rows = {
        "variant": ["v"] * 6 + ["w"] * 2,
        "image_key": [*_KEYS, "0.png", "1.png"],
        "bitstream_key": ["one", "one", "one", "two", "two", "two", "x", "y"],
        "image_etag": [""] * 8,
        "model_digest": [None] * 8,
        "sha256": [""] * 8,
    } | dict.fromkeys(("generation", "image_bytes", "width", "height", "offset", "length"), [8] * 8)
    cutting = Cutting({"v": 1, "w": 1}, frozenset({"v"}))
    (table,) = cut([pa.RecordBatch.from_pydict(rows)], "verify-1", cutting)
    units = table["unit"].to_pylist()
    assert [units.count(unit) for unit in dict.fromkeys(units)] == [3, 3, 1, 1]


def test_findings_are_committed_once_and_merged(local: Workbench) -> None:
    _encoded(local, _JPEG)
    rows = local.rows()
    local.output.put(str(rows["1.png"].bitstream_key), b"other bytes")
    local.output.delete(str(rows["2.png"].bitstream_key))
    check = _planned(local, Cutting({"jpeg": 3 * 64 * 64}, frozenset()))
    checker, told = _checker(local, check), list[str]()
    lost = {"4.png": Failure("process_killed", "the worker was lost every time it came to this image")}
    results = [checker.run_unit(unit, ATTEMPTS[0], lost, told.append) for unit in check.units()]
    assert [(result.ok, result.failed) for result in results] == [(1, 2), (2, 1)]
    assert sorted(told) == _KEYS
    again = checker.run_unit(check.units()[0], ATTEMPTS[1], {}, told.append)
    assert (again.found, again.ok, again.failed) == (True, 1, 2), "the commit that stands counts"

    units = [unit.id for unit in check.units()]
    done = merge_findings(local.output, check.work, check.name, units)
    assert merge_findings(local.output, check.work, check.name, units) == done, "whoever does it again"
    assert (done.checked, done.problems, done.parts) == (6, 3, 1)
    found = {row.image_key: row for row in problems_found(local.output, check.name, done)}
    assert {key: row.damaged for key, row in found.items()} == {"1.png": True, "2.png": True, "4.png": False}
    assert "its hash differs" in str(found["1.png"].problem) and "is missing" in str(found["2.png"].problem)
    assert not open_checks(local.output) and next_name(local.output, "verify") == "verify-00000002"
    told_of = query(local.output, "select image_key from findings where problem is not null order by 1")
    assert told_of["image_key"].to_pylist() == ["1.png", "2.png", "4.png"]


def test_images_are_decoded_under_their_planned_names(local: Workbench, tmp_path: Path) -> None:
    _encoded(local, _JPEG)
    into = Destination(open_store(str(tmp_path / "decoded"), create=True))
    cutting = Cutting({"jpeg": 10**9}, frozenset(), lambda key, variant: f"{variant}/{key}")
    check = _planned(local, cutting, "decode")
    (unit,) = check.units()
    result = _checker(local, check, into).run_unit(unit, ATTEMPTS[0], {}, lambda key: None)
    assert (result.ok, result.failed) == (6, 0)
    assert [info.key for info in into.store.list()] == [f"jpeg/{key}" for key in _KEYS]


def test_a_sample_is_as_large_as_it_says(local: Workbench) -> None:
    assert sample_of("5") == Sample(count=5) and sample_of("2.5%") == Sample(share=0.025)
    assert [Sample(share=0.1).of(rows) for rows in (1, 10, 11, 1000)] == [1, 1, 2, 100]
    assert [Sample(count=5).of(rows) for rows in (3, 10)] == [3, 5]
    for wrong in ("0", "-1", "0%", "101%", "x", "%"):
        with pytest.raises(ValueError):
            sample_of(wrong)
    _encoded(local, _JPEG)
    sizes = [_planned(local, Cutting({"jpeg": 10**9}, frozenset()), sample=Sample(count=4)) for _ in range(8)]
    drawn = {frozenset(image.key for unit in check.units() for image in unit.images) for check in sizes}
    assert {len(keys) for keys in drawn} == {4} and len(drawn) > 1, "each check draws anew"
