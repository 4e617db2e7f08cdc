"""What a verification finds damaged is planned again and mended by encoding; nothing else is touched."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ncbatch import layout
from ncbatch.cli.common import store_words
from ncbatch.cli.encode import make_run_spec
from ncbatch.cli.encode_command import encode_command
from ncbatch.codec.methods import Jpeg, Sga, Ste
from ncbatch.decoding.findings import Finding
from ncbatch.decoding.repair import LostImage, Repair, plan_repair, restore_models
from ncbatch.decoding.run_reader import RunReader
from ncbatch.driver.budget import Budget
from ncbatch.driver.driver import Driver, SpeedEstimate, Work
from ncbatch.driver.limits import Policy
from ncbatch.driver.options import Deadlines
from ncbatch.driver.order_watch import OrderWatch
from ncbatch.driver.steering import Steering
from ncbatch.models import zoo
from ncbatch.models.loading import keep_model, keep_models
from ncbatch.plan.commits import Commits
from ncbatch.plan.generations import StandingRow
from ncbatch.plan.retry import Retry
from ncbatch.plan.run import committed_results, load_run
from ncbatch.plan.spec import RunSpec, Variant
from ncbatch.plan.status import run_status
from ncbatch.report.overview import read_facts
from ncbatch.store import StoreOptions, open_store
from ncbatch.worker.unit import run_unit
from tests.cli.parsed import parsed
from tests.plan.test_retry import Overtaken
from tests.workbench import ATTEMPTS, CHECKPOINT, Workbench, make_image, make_variant, sga
from tests.worker.test_pack_units import PICTURES as PACKED
from tests.worker.test_pack_units import PLAIN, finish
from tests.worker.test_pack_units import planned as planned_pack

OPTIONS = StoreOptions()


class IdlePool:
    """Of a driver that is only asked how far it is."""

    ready_workers = size = 0


class IdleHeartbeat:
    driver = "me"
    lost = False


KEYS = ["cut.png", "flipped.png", "gone.png", "other.png", "whole.png"]
HURT = KEYS[:-1]


def encoded(bench: Workbench, *variants: str) -> RunSpec:
    """A finished run of `KEYS`."""
    bench.add({key: make_image(seed=n) for n, key in enumerate(KEYS)})
    spec = bench.spec(*(make_variant(name=name) for name in variants or ("v",)))
    keep_model(bench.output, CHECKPOINT)
    work(bench, spec)
    return spec


def work(bench: Workbench, spec: RunSpec, attempt: int = 0) -> None:
    for unit in bench.open(spec).pending:
        run_unit(bench.workspace(spec), unit, ATTEMPTS[attempt], {})


def hurt(bench: Workbench) -> None:
    """Damages the bitstreams of a run of one variant, each as its key says."""
    keys = {key.partition(".")[0]: str(row.bitstream_key) for key, row in bench.rows().items()}
    data = {name: bench.output.get(key) for name, key in keys.items()}
    bench.output.delete(keys["gone"])
    bench.output.put(keys["cut"], data["cut"][:-1])
    bench.output.put(keys["flipped"], bytes([data["flipped"][0] ^ 1]) + data["flipped"][1:])
    bench.output.put(keys["other"], data["whole"])


def findings(bench: Workbench) -> list[Finding]:
    return list(RunReader(bench.output).verify())


def damaged(bench: Workbench) -> list[StandingRow]:
    return [finding.damaged for finding in findings(bench) if finding.damaged]


def planned(bench: Workbench) -> list[tuple[int, str, list[str]]]:
    units = load_run(bench.output).pending
    return [(unit.generation, unit.variant, [image.key for image in unit.images]) for unit in units]


def test_damage_is_planned_again_and_mended_by_the_next_encode(bench: Workbench) -> None:
    spec = encoded(bench)
    before = bench.rows()
    hurt(bench)
    assert plan_repair(bench.output, bench.corpus, damaged(bench)) == Repair(len(HURT), ())
    assert planned(bench) == [(1, "v", HURT)]
    work(bench, spec, 1)
    rows = bench.rows()
    assert {key: row.generation for key, row in rows.items()} == {**dict.fromkeys(HURT, 1), "whole.png": 0}
    assert rows["whole.png"] == before["whole.png"]
    assert [finding.problem for finding in findings(bench)] == [None] * len(KEYS)
    for key in HURT:
        assert bench.bitstream(rows[key]) and rows[key].sha256 == before[key].sha256, "the same bytes again"
        assert rows[key].bitstream_key != before[key].bitstream_key, "bytes under a row never change"
    assert load_run(bench.output).pending == []


def test_a_whole_run_needs_no_plan(local: Workbench) -> None:
    encoded(local)
    assert plan_repair(local.output, local.corpus, damaged(local)) == Repair(0, ())
    assert local.keys(layout.GENERATIONS_PREFIX) == []


def test_repairing_twice_plans_once_and_damage_to_the_repaired_is_repaired(local: Workbench) -> None:
    spec = encoded(local)
    hurt(local)
    found = damaged(local)
    for _ in range(2):
        assert plan_repair(local.output, local.corpus, found).planned == len(HURT)
    assert planned(local) == [(1, "v", HURT)]
    work(local, spec, 1)
    plan_repair(local.output, local.corpus, found)  # by a verification that began before
    assert load_run(local.output).pending == []
    local.output.delete(str(local.rows()["gone.png"].bitstream_key))
    plan_repair(local.output, local.corpus, damaged(local))
    assert planned(local) == [(2, "v", ["gone.png"])]


@pytest.mark.parametrize("seen", [HURT, HURT[1:3]])
def test_a_verification_and_a_driver_that_plan_at_once_double_nothing(
    local: Workbench, seen: list[str]
) -> None:
    spec = encoded(local)
    hurt(local)
    found = damaged(local)

    def others() -> None:
        plan_repair(local.output, local.corpus, [row for row in found if row.image_key in seen])
        local.add({"new.png": make_image(seed=9)})
        local.open(spec, retry=Retry())

    plan_repair(Overtaken(local.output, others), local.corpus, found)
    again = [key for _, _, keys in planned(local) for key in keys]
    assert sorted(again) == sorted([*HURT, "new.png"])
    work(local, spec, 1)
    assert [finding.problem for finding in findings(local)] == [None] * (len(KEYS) + 1)


def test_only_the_variant_that_is_damaged(local: Workbench) -> None:
    spec = encoded(local, "one", "two")
    local.output.delete(layout.bitstream_key("two", "gone.png", 0))
    assert plan_repair(local.output, local.corpus, damaged(local)).planned == 1
    assert planned(local) == [(1, "two", ["gone.png"])]
    work(local, spec, 1)
    assert all(finding.problem is None for finding in findings(local))


def test_what_encoding_cannot_give_back_is_not_planned(local: Workbench) -> None:
    spec = encoded(local)
    hurt(local)
    local.corpus.delete("gone.png")
    local.add({"cut.png": make_image(80, 64, seed=8)})
    repair = plan_repair(local.output, local.corpus, damaged(local))
    assert repair.planned == 2
    assert repair.losses == (
        LostImage("cut.png", "v", "its input has changed; the same encode command takes the new version"),
        LostImage("gone.png", "v", "its input is gone from the corpus; put it back"),
    )
    work(local, spec, 1)
    problems = {f.image_key for f in findings(local) if f.problem}
    assert problems == {"gone.png"} and local.rows()["gone.png"].status == "ok", "its row stays"


def test_a_repair_of_an_input_that_is_replaced_then_is_neither_done_nor_counted(local: Workbench) -> None:
    keys = ["a.png", "b.png", "gone.png"]
    local.add({key: make_image(seed=n) for n, key in enumerate(keys)} | {"broken.png": b"text"})
    spec = local.spec()
    keep_model(local.output, CHECKPOINT)
    work(local, spec)
    local.output.delete(str(local.rows()["gone.png"].bitstream_key))
    plan_repair(local.output, local.corpus, damaged(local))
    assert planned(local) == [(1, "v", ["gone.png"])]
    local.add({"broken.png": make_image(seed=8), "gone.png": make_image(96, 64, seed=9)})
    run = local.open(spec)
    assert planned(local) == [(2, "v", ["broken.png", "gone.png"])]
    status = run_status(local.output)
    assert (status.images, status.pending, status.units, status.committed_units) == (4, 2, 2, 1)
    facts = read_facts(local.output)
    assert (facts.planned, facts.pending) == (4, 2)

    driver = Driver(
        Work(run, committed_results(run, Commits(local.output))), local.output,
        IdlePool(), IdleHeartbeat(), SpeedEstimate({"v": 1e-6}),  # type: ignore[arg-type]
        Steering(Budget(), OrderWatch(local.output)),
        policy=Policy(), deadlines=Deadlines(), show=lambda _: None,
    )  # fmt: skip
    now = driver.progress.snapshot()
    assert (now.images, now.ok, now.failed, now.pending) == (4, 2, 0, 2)
    done, due = (
        sum(unit.pixels for unit in run.units if (unit in run.pending) == due) for due in (False, True)
    )
    assert now.fraction == pytest.approx(done / (done + due))
    for unit in run.pending:
        driver.progress.add("v", run_unit(local.workspace(spec), unit, ATTEMPTS[1], {}))
        driver.progress.forecast.committed(unit.id, 1.0)
    now = driver.progress.snapshot()
    assert (now.images, now.ok, now.failed, now.pending, now.fraction) == (4, 4, 0, 0, 1.0)
    assert driver.images == 4 == len(local.rows())
    assert read_facts(local.output).pending == run_status(local.output).pending == 0


def test_what_is_replaced_of_a_unit_that_was_not_done_is_left_to_the_later_one(local: Workbench) -> None:
    """Else each such image would fail as changed, and many of them would stop the run."""
    local.add({key: make_image(seed=n) for n, key in enumerate(KEYS)})
    spec = local.spec()
    whole = local.unit(spec)
    local.add({KEYS[0]: make_image(80, 64, seed=8)})
    first, second = local.open(spec).pending
    assert [image.key for image in first.images] == KEYS[1:] and first.id == whole.id
    assert [image.key for image in second.images] == KEYS[:1]
    result = run_unit(local.workspace(spec), first, ATTEMPTS[0], {})
    assert (result.ok, result.failed) == (4, 0)
    assert run_unit(local.workspace(spec), second, ATTEMPTS[0], {}).ok == 1
    assert {row.status for row in local.rows().values()} == {"ok"} and len(local.rows()) == len(KEYS)


def test_of_another_drivers_commit_the_superseded_rows_are_not_counted(local: Workbench) -> None:
    local.add({key: make_image(seed=n) for n, key in enumerate(KEYS)})
    spec = local.spec()
    whole = local.unit(spec)
    local.add({KEYS[0]: make_image(80, 64, seed=8)})
    first, _ = local.open(spec).pending
    result = run_unit(local.workspace(spec), whole, ATTEMPTS[0], {})  # by a driver of before the change
    assert (result.ok, result.failed) == (4, 1)
    result = run_unit(local.workspace(spec), first, ATTEMPTS[1], {})
    assert (result.ok, result.failed) == (4, 0)


def test_units_are_as_large_as_the_run_made_them(local: Workbench) -> None:
    local.add({f"{n}.png": make_image(seed=n) for n in range(6)})
    spec = local.spec()
    pixels = 2 * local.open(spec, pixels_per_unit=1).units[0].pixels
    local.output.delete(layout.RUN)
    for unit in local.open(spec, pixels_per_unit=pixels).units:
        run_unit(local.workspace(spec), unit, ATTEMPTS[0], {})
    keep_model(local.output, CHECKPOINT)
    for row in local.rows().values():
        local.output.delete(str(row.bitstream_key))
    plan_repair(local.output, local.corpus, damaged(local))
    assert [len(keys) for _, _, keys in planned(local)] == [2, 2, 2]


# Packs


def flip(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 255]) + data[place + 1 :]


@pytest.mark.parametrize(
    ("lost", "damage"),
    [
        (["a.png"], lambda data, rows: flip(data, rows["a.png"].offset + 20)),
        (["a.png", "b.png"], lambda data, rows: flip(data, rows["b.png"].offset + 20)),
        (["a.png", "b.png", "c.png"], lambda data, rows: flip(data, 3)),
        (["a.png"], lambda data, rows: data[:-1]),
        (["a.png", "b.png", "c.png"], None),
    ],
)
def test_the_lost_images_of_a_pack_become_a_pack_of_their_own(
    local: Workbench, lost: list[str], damage: Callable[[bytes, Mapping[str, Any]], bytes] | None
) -> None:
    """Damage loses the image it is in and those packed before it, which come after it in the file."""
    spec, unit = planned_pack(local)
    before = finish(local, spec, unit)
    (key,) = local.keys("packs/")
    data = local.output.get(key)
    local.output.delete(key)
    if damage:
        local.output.put(key, damage(data, before))
    assert sorted(row.image_key for row in damaged(local)) == lost
    plan_repair(local.output, local.corpus, damaged(local))
    assert planned(local) == [(1, "v", lost)]
    work(local, spec, 1)
    assert [finding.problem for finding in findings(local)] == [None] * len(PACKED)
    rows, reader = local.rows(), RunReader(local.output)
    for name, pixels in PACKED.items():
        assert rows[name].generation == (name in lost)
        error = np.square(reader.image(name, "v").astype(float) - pixels).mean()
        assert rows[name].mse == pytest.approx(error)
        assert name in lost or rows[name] == before[name]
    assert len({row.bitstream_key for row in rows.values()}) == (2 if len(lost) < len(PACKED) else 1)


# Models


@pytest.mark.parametrize("damage", ["missing", "cut", "another"])
def test_lost_models_are_put_back_and_nothing_is_encoded_again(local: Workbench, damage: str) -> None:
    spec = encoded(local)
    key = layout.model_key(CHECKPOINT.digest)
    local.output.delete(key)
    if damage != "missing":
        other = zoo.load_builtin("base-0.020").to_bytes()
        local.output.put(key, other if damage == "another" else CHECKPOINT.to_bytes()[:-1])
    assert all(finding.problem for finding in findings(local))
    assert damaged(local) == [], "their own bytes are fine"
    restore_models(local.output, spec, OPTIONS)
    assert local.output.get(key) == CHECKPOINT.to_bytes()
    assert all(finding.problem is None for finding in findings(local))


def test_a_model_that_cannot_be_had_is_left_to_the_verification(
    local: Workbench, caplog: pytest.LogCaptureFixture
) -> None:
    local.add({"a.png": make_image()})
    spec = local.spec(make_variant().model_copy(update={"model": "somewhere/gone.safetensors"}))
    local.encode(spec)
    restore_models(local.output, spec, OPTIONS)
    assert "cannot be put back from somewhere/gone.safetensors" in caplog.text
    (finding,) = findings(local)
    assert "the run's bitstreams need it" in str(finding.problem) and finding.damaged is None


def test_a_model_of_the_same_name_that_is_another_is_not_put_back(
    local: Workbench, caplog: pytest.LogCaptureFixture
) -> None:
    local.add({"a.png": make_image()})
    spec = local.spec(make_variant().model_copy(update={"model": "base-0.020"}))
    local.encode(spec)
    restore_models(local.output, spec, OPTIONS)
    assert "base-0.020 is another model now" in caplog.text
    assert local.output.head(layout.model_key(CHECKPOINT.digest)) is None


def test_encoding_puts_a_lost_model_back(local: Workbench) -> None:
    spec = encoded(local)
    key = layout.model_key(CHECKPOINT.digest)
    local.output.delete(key)
    for _ in range(2):
        keep_models(local.output, spec.models, OPTIONS)
        assert local.output.get(key) == CHECKPOINT.to_bytes()


# The command that goes on


BITS_BACK = zoo.load_builtin("bits-back-0.010")


@pytest.mark.parametrize(
    ("variant", "more"),
    [
        (make_variant(), {}),
        (make_variant(sga(7, seed=3, decay="cosine", noise=0.25, rounding="linear"), "o.clock-1"), {}),
        (make_variant(sga(9, plateau=0.0, annealing_rate=1e-5), alpha="white", max_pixels=5), {}),
        (make_variant(fall_back=True, alpha="black"), {"exclude": ("-x*", "y")}),
        (make_variant(Ste(lmbda=0.02, steps=3)), {"include": ("*.jpg", "a b/*")}),
        (make_variant(Sga(lmbda=0.01, steps=2, check_every=1, beta1=0.8)), {}),
        (Variant(name="j", recipe=Jpeg(quality=50)), {}),
        (
            Variant(
                name="p",
                model="bits-back-0.010",
                model_digest=BITS_BACK.digest,
                recipe=PLAIN.model_copy(update={"bbvi_learning_rate": 0.01}),
            ),
            {},
        ),
        (make_variant().model_copy(update={"model": "elsewhere/gone.safetensors"}), {}),
        (make_variant(color="convert", metadata="keep", frames="refuse"), {}),
        (make_variant(color="keep"), {}),
    ],
)  # fmt: skip
def test_the_command_that_goes_on_asks_for_the_same_run(
    local: Workbench, variant: Variant, more: dict[str, Any]
) -> None:
    local.add({"a.png": make_image()})
    keep_model(local.output, CHECKPOINT)
    spec = local.spec(variant, **more)
    server = ["--endpoint-url", "http://127.0.0.1:1", "--region", "a b"]
    program, *words = shlex.split(encode_command(spec, local.output.uri, server))
    found = parsed(*words)
    assert (program, found["output"]) == ("ncbatch", str(local.output.root))  # type: ignore[attr-defined]
    store = found["options"].store
    asked = make_run_spec(found["corpus"], found["spec"], found["variant"], found["inputs"], store)
    assert asked.digest == spec.digest
    assert store_words(store) == server


def test_folders_are_told_by_path_or_else_by_uri(tmp_path: Path) -> None:
    spec = RunSpec(corpus="s3://bucket/in/", variants=(make_variant(),))
    for name, by_path in ((b"a b", True), ("é #%41?".encode(), True), (b"caf\xe9", False)):
        output = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
        uri = open_store(str(output), create=True).uri
        words = shlex.split(encode_command(spec, uri))
        assert words[2:4] == ["s3://bucket/in/", str(output) if by_path else uri]
        assert open_store(words[3], create=True).uri == uri


def test_several_variants_need_the_spec_file(local: Workbench) -> None:
    command = encode_command(local.spec(make_variant(name="one"), make_variant(name="two")), local.output.uri)
    assert "--spec FILE" in command and "--method" not in command
