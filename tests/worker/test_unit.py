"""Commits and bitstreams, however often and by however many a unit is done."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import torch

from ncbatch import layout
from ncbatch.codec import codecs
from ncbatch.codec.encode import encode, find_latents
from ncbatch.codec.errors import ModelError
from ncbatch.metrics.failures import Failure
from ncbatch.metrics.schema import Row
from ncbatch.models.loading import keep_model
from ncbatch.plan.spec import RunSpec
from ncbatch.plan.units import Unit
from ncbatch.worker.attempt import Attempt
from ncbatch.worker.unit import open_attempt, probe_image, run_unit
from ncbatch.worker.workspace import Workspace
from tests.workbench import (
    AMORTIZED,
    ATTEMPTS,
    CHECKPOINT,
    MODEL,
    Workbench,
    assert_one_row_each,
    make_image,
    make_variant,
    sga,
)

PICTURES = {"a.png": make_image(seed=1), "sub/b.png": make_image(70, 50, seed=2), "c.png": make_image(seed=3)}


class Encoder:
    """Counts the images that are encoded in all, and those that are refined; adopting refines none."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.all = self.refined = 0
        monkeypatch.setattr(codecs, "find_latents", self._encode)

    def _encode(self, model: Any, images: Any, recipe: Any, **options: Any) -> Any:
        self.all += len(images)
        self.refined += len(images) * recipe.refines
        return find_latents(model, images, recipe, **options)


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> Encoder:
    return Encoder(monkeypatch)


def _planned(bench: Workbench, steps: int = 2) -> tuple[RunSpec, Unit]:
    bench.add(PICTURES)
    spec = bench.spec(make_variant(sga(steps)))
    return spec, bench.unit(spec)


def _dies_before_the_commit(
    bench: Workbench, spec: RunSpec, unit: Unit, attempt_id: str, images: int
) -> None:
    """Publishes the bitstreams of the first images and nothing else."""
    rows = open_attempt(bench.workspace(spec), unit, attempt_id).rows(unit.images[:images], {})
    assert [row.status for row in rows] == ["ok"] * images


def test_a_unit_is_committed_with_one_row_per_image(bench: Workbench) -> None:
    spec, unit = _planned(bench)
    result = run_unit(bench.workspace(spec), unit, ATTEMPTS[0], {})
    rows = bench.commit(unit)
    assert_one_row_each(rows, unit)
    assert (result.ok, result.failed, result.exact) == (3, 0, 0)
    assert result.bpp == pytest.approx(sum(row.bpp or 0 for row in rows))
    keys = [row.bitstream_key for row in rows]
    assert bench.keys(layout.BITSTREAMS_PREFIX) == sorted(str(key) for key in keys), "and nothing else"
    for row in rows:
        bench.bitstream(row)
        assert row.bitstream_key == layout.bitstream_key(
            "v", row.image_key, 0, None if bench.create_only else ATTEMPTS[0]
        )


def test_a_committed_unit_is_not_done_again(bench: Workbench, encoder: Encoder) -> None:
    spec, unit = _planned(bench)
    first = run_unit(bench.workspace(spec), unit, ATTEMPTS[0], {})
    before = (bench.output.get(layout.unit_key(unit.id)), bench.keys(""))
    assert (encoder.all, encoder.refined) == (3, 3)
    again = run_unit(bench.workspace(spec), unit, ATTEMPTS[1], {})
    assert again == replace(first, found=True) and not first.found
    assert encoder.all == 3
    assert (bench.output.get(layout.unit_key(unit.id)), bench.keys("")) == before


def test_bitstreams_of_an_earlier_attempt_are_adopted(bench: Workbench, encoder: Encoder) -> None:
    spec, unit = _planned(bench)
    _dies_before_the_commit(bench, spec, unit, ATTEMPTS[0], images=2)
    standing = {key: bench.output.get(key) for key in bench.keys(layout.BITSTREAMS_PREFIX)}
    assert (len(standing), encoder.refined) == (2, 2)
    run_unit(bench.workspace(spec), unit, ATTEMPTS[1], {})
    assert encoder.refined == 3, "only the third was left to encode"
    rows = bench.rows()
    assert {key for key, row in rows.items() if row.adopted} == {i.key for i in unit.images[:2]}
    for row in rows.values():
        data = bench.bitstream(row)
        assert row.attempt == ATTEMPTS[1]
        assert row.mse == pytest.approx(bench.mse(row, PICTURES[row.image_key]))
        assert row.amortized_rd_loss is not None and row.rd_loss is not None
        assert row.steps_taken == (None if row.adopted else 2)
        if row.adopted:
            assert standing[str(row.bitstream_key)] == data


def test_a_probe_commits_nothing_and_is_adopted(bench: Workbench, encoder: Encoder) -> None:
    spec, unit = _planned(bench)
    probe_image(bench.workspace(spec), unit, ATTEMPTS[0], "sub/b.png")
    assert (bench.keys("units/"), len(bench.keys(layout.BITSTREAMS_PREFIX))) == ([], 1)
    run_unit(bench.workspace(spec), unit, ATTEMPTS[1], {"a.png": Failure("process_killed", "see its log")})
    rows = bench.rows()
    assert encoder.refined == 2
    assert [rows[key].adopted for key in ("sub/b.png", "c.png")] == [True, False]
    assert rows["a.png"].error_class == "process_killed"


def _other_images_stream() -> bytes:
    return encode(MODEL, [make_image(seed=99)], AMORTIZED)[0].outcome.data


@pytest.mark.parametrize("standing", [b"NCB" + b"\0" * 40, _other_images_stream()])
def test_useless_bytes_at_the_key_are_neither_adopted_nor_in_the_way(
    bench: Workbench, standing: bytes
) -> None:
    bench.add({"a.png": make_image(seed=1)})
    spec = bench.spec(make_variant(sga(2)))
    # what an attempt of the same image would look for
    key = layout.bitstream_key("v", "a.png", 0, None if bench.create_only else ATTEMPTS[3])
    bench.output.put(key, standing)
    row = bench.encode(spec)["a.png"]
    assert not row.adopted
    assert row.bitstream_key == layout.bitstream_key("v", "a.png", 0, ATTEMPTS[0])
    assert row.mse == pytest.approx(bench.mse(row, make_image(seed=1)))
    assert bench.output.get(key) == standing


def test_a_cut_bitstream_is_not_adopted(local: Workbench) -> None:
    spec, unit = _planned(local)
    _dies_before_the_commit(local, spec, unit, ATTEMPTS[0], images=1)
    (key,) = local.keys(layout.BITSTREAMS_PREFIX)
    local.output.put(key, local.output.get(key)[:-9])
    run_unit(local.workspace(spec), unit, ATTEMPTS[1], {})
    row = local.rows()[unit.images[0].key]
    assert (row.adopted, row.bitstream_key) == (False, key.replace(".ncb", f".{ATTEMPTS[1]}.ncb"))


def _race(bench: Workbench, spec: RunSpec, unit: Unit, attempts: tuple[str, ...]) -> None:
    """Several workers do one unit and publish and commit at the same time, as nearly as can be."""
    barrier = threading.Barrier(len(attempts))

    def work(attempt_id: str) -> int:
        workspace = bench.workspace(spec)
        barrier.wait()
        return run_unit(workspace, unit, attempt_id, {}).ok

    with ThreadPoolExecutor(len(attempts)) as workers:
        assert list(workers.map(work, attempts)) == [len(unit.images)] * len(attempts)


@pytest.mark.parametrize("differing", [False, True])
def test_attempts_at_once_leave_one_row_and_its_bytes(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch, differing: bool
) -> None:
    spec, unit = _planned(bench)
    if differing:
        _let_workers_encode_differently(monkeypatch)
    for number in range(1 if differing else 2):
        _race(bench, spec, unit, ATTEMPTS[2 * number : 2 * number + 2])
        rows = bench.commit(unit)
        assert_one_row_each(rows, unit)
        for row in rows:
            bench.bitstream(row)
            assert row.mse == pytest.approx(bench.mse(row, PICTURES[row.image_key]))
        bench.output.delete(layout.unit_key(unit.id))  # the second time everything stands already


def _let_workers_encode_differently(monkeypatch: pytest.MonkeyPatch) -> None:
    """As two kinds of GPUs would: every call refines with another seed."""
    lock, seeds = threading.Lock(), iter(range(1000))

    def encode_differently(model: Any, images: Any, recipe: Any, **options: Any) -> Any:
        if recipe.refines:
            with lock:
                recipe = recipe.model_copy(update={"seed": next(seeds), "steps": 4})
        return find_latents(model, images, recipe, **options)

    monkeypatch.setattr(codecs, "find_latents", encode_differently)


def test_bytes_under_a_committed_row_never_change(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that was thought dead finishes after its replacement has committed."""
    spec, unit = _planned(bench)
    _let_workers_encode_differently(monkeypatch)
    late = open_attempt(bench.workspace(spec), unit, ATTEMPTS[0])
    jobs = late.rows(unit.images, {})
    first = next(jobs)
    run_unit(bench.workspace(spec), unit, ATTEMPTS[1], {})
    committed = {row.image_key: bench.bitstream(row) for row in bench.commit(unit)}
    late_rows = [first, *jobs]
    assert len(late_rows) == 3
    for row in bench.commit(unit):
        assert bench.bitstream(row) == committed[row.image_key]


def test_where_another_attempt_was_faster_its_bitstream_counts(
    local: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes to stand while we refine, after we have looked for one to adopt."""
    local.add({"a.png": make_image(seed=1)})
    spec = local.spec(make_variant(sga(10)))
    unit = local.unit(spec)

    def encode_late(model: Any, images: Any, recipe: Any, **options: Any) -> Any:
        if recipe.refines and not local.keys("units/"):
            monkeypatch.setattr(codecs, "find_latents", find_latents)
            run_unit(local.workspace(spec), unit, ATTEMPTS[1], {})
            recipe = recipe.model_copy(update={"seed": 9})
        return find_latents(model, images, recipe, **options)

    monkeypatch.setattr(codecs, "find_latents", encode_late)
    (late,) = open_attempt(local.workspace(spec), unit, ATTEMPTS[0]).rows(unit.images, {})
    (committed,) = local.commit(unit)
    assert (late.adopted, late.sha256) == (True, committed.sha256)
    assert local.keys(layout.BITSTREAMS_PREFIX) == [committed.bitstream_key]
    local.bitstream(late)


def test_a_variant_keeps_to_its_own_bitstreams(local: Workbench) -> None:
    local.add({"a.png": make_image(seed=1)})
    spec = local.spec(make_variant(sga(20)), make_variant(name="w"))
    rows = []
    for unit, attempt_id in zip(local.open(spec).units, ATTEMPTS, strict=False):
        run_unit(local.workspace(spec), unit, attempt_id, {})
        rows += local.commit(unit)
    assert [(row.variant, row.method, row.adopted) for row in rows] == [
        ("v", "sga", False),
        ("w", "amortized", False),
    ]
    streams = [hashlib.sha256(local.bitstream(row)).hexdigest() for row in rows]
    assert streams[0] != streams[1]


def test_a_worker_takes_the_model_from_the_output(bench: Workbench) -> None:
    spec, unit = _planned(bench)
    worker = Workspace(spec, bench.corpus, bench.output, torch.device("cpu"))
    with pytest.raises(ModelError, match=r"safetensors is missing; the run's bitstreams need it"):
        run_unit(worker, unit, ATTEMPTS[0], {})
    keep_model(bench.output, CHECKPOINT)
    assert bench.output.get(layout.model_key(CHECKPOINT.digest)) == CHECKPOINT.to_bytes()
    assert run_unit(worker, unit, ATTEMPTS[0], {}).ok == 3


def test_rows_that_are_not_one_for_each_image_are_never_committed(
    local: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, unit = _planned(local)
    rows = Attempt.rows

    def twice(self: Attempt, *args: Any) -> Generator[Row, None, None]:
        for row in rows(self, *args):
            yield row
            yield row

    monkeypatch.setattr(Attempt, "rows", twice)
    with pytest.raises(AssertionError, match=f"unit {unit.id} has 3 images, but 6 rows"):
        run_unit(local.workspace(spec), unit, ATTEMPTS[0], {})
    assert local.keys("units/") == []
