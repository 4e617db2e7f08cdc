"""Failed rows are tried again when that is asked for: as a new generation, each once, whoever else plans."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import pytest

from ncbatch import layout
from ncbatch.driver.encode_corpus import failed_before
from ncbatch.driver.jobs import EncodeRequest
from ncbatch.driver.limits import EarlierFailures
from ncbatch.images.checks import ErrorClass
from ncbatch.metrics.failures import CLASSES, Failure, failures_of
from ncbatch.plan.commits import Commits
from ncbatch.plan.retry import Retry
from ncbatch.plan.run import committed_results, load_run
from ncbatch.plan.spec import RunSpec
from ncbatch.plan.units import Unit
from ncbatch.worker.batches import OUT_OF_MEMORY, failure_of
from ncbatch.worker.unit import run_unit
from tests.cli.parsed import parsed
from tests.workbench import ATTEMPTS, Workbench, make_image, make_variant

KILLED, HUNG = "process_killed", "deadline"
ALL = Retry()


def poisons(classes: dict[str, str]) -> dict[str, Failure]:
    """By image, given the error class of each."""
    return {image: Failure(error_class, "see its log") for image, error_class in classes.items()}


def failed_run(bench: Workbench, poisoned: dict[str, str], *variants: str) -> RunSpec:
    """A finished run of three images and one that is none; some failed because their worker was lost."""
    bench.add({**{f"{name}.png": make_image(seed=n) for n, name in enumerate("abc")}, "bad.png": b"text"})
    spec = bench.spec(*(make_variant(name=name) for name in variants or ("v",)))
    for unit in bench.open(spec).units:
        run_unit(bench.workspace(spec), unit, ATTEMPTS[0], poisons(poisoned))
    return spec


def work(bench: Workbench, spec: RunSpec, units: list[Unit], poisoned: dict[str, str] | None = None) -> None:
    for unit in units:
        run_unit(bench.workspace(spec), unit, ATTEMPTS[1], poisons(poisoned or {}))


def planned(units: list[Unit]) -> list[tuple[int, str, list[str]]]:
    return [(unit.generation, unit.variant, [image.key for image in unit.images]) for unit in units]


def test_failed_rows_stay_unless_they_are_to_be_retried(bench: Workbench) -> None:
    spec = failed_run(bench, {"a.png": KILLED})
    assert bench.open(spec).pending == []
    before = bench.rows()
    run = bench.open(spec, retry=ALL)
    assert planned(run.pending) == [(1, "v", ["a.png", "bad.png"])]
    work(bench, spec, run.pending)
    rows = bench.rows()
    assert (rows["a.png"].status, rows["a.png"].generation) == ("ok", 1)
    assert (rows["bad.png"].error_class, rows["bad.png"].generation) == ("unreadable", 1)
    assert {key: rows[key] for key in ("b.png", "c.png")} == {key: before[key] for key in ("b.png", "c.png")}
    bench.bitstream(rows["a.png"])
    assert layout.bitstream_stem("v", "a.png", 1) in str(rows["a.png"].bitstream_key)


def test_only_the_classes_named(local: Workbench) -> None:
    spec = failed_run(local, {"a.png": KILLED, "b.png": HUNG})
    assert local.open(spec, retry=Retry(frozenset({"missing"}))).pending == []
    run = local.open(spec, retry=Retry(frozenset({HUNG, "missing"})))
    assert planned(run.pending) == [(1, "v", ["b.png"])]


def test_only_the_variants_that_failed(local: Workbench) -> None:
    local.add({"a.png": make_image()})
    spec = local.spec(make_variant(name="one"), make_variant(name="two"))
    for unit in local.open(spec).units:
        poisoned = {"a.png": KILLED} if unit.variant == "two" else {}
        run_unit(local.workspace(spec), unit, ATTEMPTS[0], poisons(poisoned))
    assert planned(local.open(spec, retry=ALL).pending) == [(1, "two", ["a.png"])]


def test_what_is_planned_again_already_is_left_to_that(local: Workbench) -> None:
    spec = failed_run(local, {"a.png": KILLED, "b.png": HUNG})
    first = local.open(spec, retry=Retry(frozenset({KILLED}))).pending
    again = local.open(spec, retry=ALL).pending
    assert planned(again) == [(1, "v", ["a.png"]), (2, "v", ["b.png", "bad.png"])]
    assert local.open(spec, retry=ALL).pending == again, "a killed driver's command again plans nothing"
    assert local.open(spec).pending == again, "nor does it need the flag to go on"
    work(local, spec, first, {"a.png": KILLED})
    assert planned(local.open(spec, retry=Retry(frozenset({KILLED}))).pending) == [
        (2, "v", ["b.png", "bad.png"]),
        (3, "v", ["a.png"]),
    ], "it failed again, and is tried again"


def test_changed_and_failed_at_once_is_planned_once(local: Workbench) -> None:
    spec = failed_run(local, {"a.png": KILLED, "b.png": KILLED})
    local.add({"a.png": make_image(80, 64, seed=9), "new.png": make_image(seed=10)})
    local.corpus.delete("bad.png")
    run = local.open(spec, retry=ALL)
    assert planned(run.pending) == [(1, "v", ["a.png", "new.png", "b.png"])]
    work(local, spec, run.pending)
    rows = local.rows()
    assert {key: row.status for key, row in rows.items()} == {
        "a.png": "ok", "b.png": "ok", "c.png": "ok", "new.png": "ok", "bad.png": "failed",
    }  # fmt: skip
    assert rows["a.png"].width == 80 and rows["bad.png"].generation == 0, "its input is gone"


class Overtaken:
    """A store in which something happens right before the first generation is published."""

    def __init__(self, store: Any, meanwhile: Callable[[], object]) -> None:
        self._store, self._meanwhile = store, [meanwhile]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        if key.startswith(layout.GENERATIONS_PREFIX) and self._meanwhile:
            self._meanwhile.pop()()
        return bool(self._store.put_if_absent(key, data))


@pytest.mark.parametrize("classes", [None, frozenset({KILLED}), frozenset({HUNG})])
def test_two_drivers_that_plan_at_once_double_nothing_and_forget_nothing(
    local: Workbench, classes: frozenset[str] | None
) -> None:
    spec = failed_run(local, {"a.png": KILLED, "b.png": HUNG})
    behind = Workbench(
        local.corpus,
        Overtaken(local.output, lambda: local.open(spec, retry=Retry(classes))),
        local.create_only,
    )
    run = behind.open(spec, retry=ALL)
    again = [image.key for unit in run.pending for image in unit.images]
    assert sorted(again) == ["a.png", "b.png", "bad.png"]
    work(local, spec, run.pending)
    assert {key: row.status for key, row in local.rows().items()}["a.png"] == "ok"
    assert load_run(local.output).pending == []


def test_progress_counts_what_is_tried_again_once(local: Workbench) -> None:
    spec = failed_run(local, {"a.png": KILLED})
    run = local.open(spec, retry=ALL)
    (result,) = committed_results(run, Commits(local.output)).values()
    assert (result.ok, result.failed) == (2, 0)
    assert failed_before(run, Commits(local.output)) == EarlierFailures(failed=2, killed=1)
    work(local, spec, run.pending)
    assert failed_before(local.open(spec), Commits(local.output)) == EarlierFailures()
    counted = committed_results(local.open(spec), Commits(local.output)).values()
    assert (sum(r.ok for r in counted), sum(r.failed for r in counted)) == (3, 1)


# What `ncbatch failures` says


def test_failures_are_told_by_class_with_examples(bench: Workbench) -> None:
    failed_run(bench, {"a.png": KILLED, "c.png": KILLED}, "v", "w")
    first, second = failures_of(bench.output, examples=3)
    assert (first.name, first.count, second.name, second.count) == (KILLED, 4, "unreadable", 2)
    assert [(e.image_key, e.variant) for e in first.examples] == [
        ("a.png", "v"), ("a.png", "w"), ("c.png", "v"),
    ]  # fmt: skip
    assert "--retry-failed" in first.known.remedy and "--retry-failed" not in second.known.remedy
    assert all(example.error for example in (*first.examples, *second.examples))
    assert [f.examples for f in failures_of(bench.output, examples=0)] == [(), ()]


def test_a_run_without_failures_has_none(local: Workbench) -> None:
    local.add({"a.png": make_image()})
    local.encode(local.spec())
    assert failures_of(local.output, examples=3) == []


def test_every_error_class_that_is_written_is_known() -> None:
    from ncbatch.codec.errors import DecodeCheckError, DivergedError

    written = {*get_args(ErrorClass), OUT_OF_MEMORY}
    written |= {failure_of(error).error_class for error in (DivergedError(""), DecodeCheckError(""))}
    written |= {
        "missing",
        "access_denied",
        "refused",
        "changed",
        "too_many_bytes",
        "too_small",
        "damaged_shard",
    }  # of `open_image`
    written |= {"process_killed", "deadline", "internal_error", "device_failed"}  # of the pool
    assert written == CLASSES.keys()


@pytest.mark.parametrize(("flag", "classes"), [("", None), ("=deadline,missing", {"deadline", "missing"})])
def test_the_flag_goes_from_submit_to_the_job(local: Workbench, flag: str, classes: set[str] | None) -> None:
    retry = Retry(frozenset(classes) if classes else None)
    options = parsed("submit", "in", "out", f"--retry-failed{flag}", "--workers", "2")["options"]
    assert options.retry == parsed("encode", "in", "out", f"--retry-failed{flag}")["options"].retry == retry
    request = EncodeRequest(local.spec(), "s3://bucket/out/", options)
    assert EncodeRequest.from_json(request.to_json()) == request
    assert parsed("encode", "in", "out")["options"].retry is None
