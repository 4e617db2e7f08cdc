"""Units of bits-back variants: one pack each, committed, resumed, adopted and verified as files are."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from ncbatch import layout
from ncbatch.codec.bits_back import encode
from ncbatch.codec.codecs import PackCoder
from ncbatch.codec.errors import DivergedError
from ncbatch.codec.methods import BitsBack, BitsBackBbvi, Packed, SgaBitsBack
from ncbatch.decoding.destination import Destination
from ncbatch.decoding.files import FileOptions, decode_pack_file
from ncbatch.decoding.run_reader import RunReader
from ncbatch.errors import UsageError
from ncbatch.images.read import read_image
from ncbatch.metrics.failures import Failure
from ncbatch.metrics.schema import Row
from ncbatch.models import zoo
from ncbatch.models.loading import keep_model
from ncbatch.plan.request import make_variant
from ncbatch.plan.spec import RunSpec, Variant
from ncbatch.plan.units import PlannedImage, Unit, make_units
from ncbatch.store import StoreOptions, open_store
from ncbatch.worker import work_in_progress
from ncbatch.worker.batching import FixedBatches
from ncbatch.worker.bounds import Bounds
from ncbatch.worker.calibration import seconds_per_pixel
from ncbatch.worker.unit import open_attempt, probe_image, run_unit
from tests.workbench import ATTEMPTS, Workbench, encoded_as, make_image
from tests.worker.test_work_in_progress import DeadlyStore, Killed

CHECKPOINT = zoo.load_builtin("bits-back-0.010")
PICTURES = {"a.png": make_image(seed=1), "b.png": make_image(70, 64, seed=2), "c.png": make_image(seed=3)}
OPTIONS = FileOptions(max_pixels=10**6)
PLAIN = BitsBackBbvi(lmbda=0.01, bbvi_steps=2)


def refined(steps: int = 20) -> SgaBitsBack:
    return SgaBitsBack(lmbda=0.01, steps=steps, bbvi_steps=2)


def planned(bench: Workbench, recipe: Packed = PLAIN, **fields: Any) -> tuple[RunSpec, Unit]:
    bench.add({key: p for key, p in PICTURES.items() if bench.corpus.head(key) is None})
    keep_model(bench.output, CHECKPOINT)
    variant = Variant(
        name="v", model="bits-back-0.010", model_digest=CHECKPOINT.digest, recipe=recipe, **fields
    )
    spec = bench.spec(variant)
    return spec, bench.unit(spec)


def finish(bench: Workbench, spec: RunSpec, unit: Unit, attempt: int = 0, **fields: Any) -> dict[str, Row]:
    run_unit(bench.workspace(spec, **fields), unit, ATTEMPTS[attempt], {})
    return bench.rows()


def check(bench: Workbench, rows: dict[str, Row], keys: Any = PICTURES) -> None:
    """Rows describe bytes that are there and decode to their numbers."""
    reader = RunReader(bench.output)
    assert [finding.problem for finding in reader.verify()] == [None] * len(keys)
    total = 0
    for key in keys:
        row, pixels = rows[key], PICTURES[key]
        assert row.status == "ok", row.error
        decoded = reader.image(key, "v")
        assert row.mse == pytest.approx(np.square(decoded.astype(float) - pixels).mean())
        assert row.bpp is not None
        total += round(row.bpp * pixels.size / 3 / 8)
    (pack,) = {row.bitstream_key for row in rows.values() if row.status == "ok"}
    assert pack is not None
    lengths = [row.length for row in rows.values() if row.length is not None]
    assert len(lengths) == len(keys)
    assert total == len(bench.output.get(pack)) == sum(lengths)


@pytest.mark.parametrize("recipe", [PLAIN, BitsBack(lmbda=0.01), refined(2)])
def test_a_unit_becomes_one_pack(bench: Workbench, recipe: Packed) -> None:
    spec, unit = planned(bench, recipe)
    rows = finish(bench, spec, unit)
    check(bench, rows)
    (key,) = bench.keys("packs/")
    assert key == layout.pack_key("v", unit.id, hashlib.sha256(bench.output.get(key)).hexdigest())
    assert bench.keys("bitstreams/") == bench.keys("wip/") == []
    assert [rows[key].bits_back is None for key in sorted(rows)] == [True, False, False]
    assert {row.method for row in rows.values()} == {recipe.method}


def test_bad_images_are_failed_rows_and_not_in_the_pack(local: Workbench) -> None:
    local.add({"a.png": b"no image", **{k: p for k, p in PICTURES.items() if k != "a.png"}})
    spec, unit = planned(local)
    run_unit(local.workspace(spec), unit, ATTEMPTS[0], {"c.png": Failure("process_killed", "see its log")})
    rows = local.rows()
    assert (rows["a.png"].status, rows["c.png"].error_class) == ("failed", "process_killed")
    assert rows["b.png"].status == "ok"


def test_a_unit_without_one_good_image_has_no_pack(local: Workbench) -> None:
    local.add(dict.fromkeys(PICTURES, b"no image"))
    rows = finish(local, *planned(local))
    assert {row.status for row in rows.values()} == {"failed"} and not local.keys("packs/")


@pytest.mark.parametrize(("saves", "left"), [(1, 50), (2, 40), (3, 30), (4, 20), (5, 10), (6, 0)])
def test_a_killed_worker_costs_what_was_done_since_the_last_save(
    local: Workbench, saves: int, left: int
) -> None:
    """Of three images of twenty steps each, with a save in the middle of each and one when it is done."""
    spec, unit = planned(local, refined())
    workspace = local.workspace(spec, wip_seconds=0.0)
    workspace.output = DeadlyStore(local.output, saves)
    with pytest.raises(Killed):
        run_unit(workspace, unit, ATTEMPTS[0], {})
    assert local.output.head(layout.wip_key(unit.id)) is not None
    steps: list[int] = []
    real = encode.refine

    def counted(*args: Any) -> Any:
        done = real(*args)
        steps.append(done.step - (int(args[3]["step"]) if args[3] else 0))
        return done

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encode, "refine", counted)
        rows = finish(local, spec, unit, 1)
    check(local, rows)
    assert sum(steps) == left
    assert local.keys("wip/") == []


def test_what_an_image_becomes_does_not_depend_on_interruptions(local: Workbench, tmp_path: Any) -> None:
    spec, unit = planned(local, refined())
    workspace = local.workspace(spec, wip_seconds=0.0)
    workspace.output = DeadlyStore(local.output, 5)
    with pytest.raises(Killed):
        run_unit(workspace, unit, ATTEMPTS[0], {})
    rows = finish(local, spec, unit, 1)
    quiet = Workbench(local.corpus, open_store(str(tmp_path / "quiet"), create=True), create_only=True)
    undisturbed = finish(quiet, *planned(quiet, refined()))
    assert {k: r.sha256 for k, r in rows.items()} == {k: r.sha256 for k, r in undisturbed.items()}


def test_a_pack_that_an_attempt_published_before_it_died_is_adopted(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is refined nor inferred again but by the decode check."""
    spec, unit = planned(bench, refined(2))
    list(open_attempt(bench.workspace(spec), unit, ATTEMPTS[0]).rows(unit.images, {}))
    standing = bench.keys("packs/")
    monkeypatch.setattr(encode, "refine", None)
    monkeypatch.setattr(encode, "infer_posteriors", None)
    rows = finish(bench, spec, unit, 1)
    check(bench, rows)
    assert all(row.adopted for row in rows.values())
    assert bench.keys("packs/") == standing and bench.keys("wip/") == []


def test_what_a_probe_found_is_not_found_again(local: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, unit = planned(local)
    for image in unit.images:
        probe_image(local.workspace(spec), unit, ATTEMPTS[0], image.key)
    assert local.keys("packs/") == local.keys("units/") == []
    monkeypatch.setattr(encode, "infer_posteriors", None)
    rows = finish(local, spec, unit, 1)
    check(local, rows)
    assert not any(row.adopted for row in rows.values())


def test_a_damaged_object_of_what_was_kept_is_passed_over(local: Workbench) -> None:
    spec, unit = planned(local)
    probe_image(local.workspace(spec), unit, ATTEMPTS[0], "b.png")
    (key,) = local.keys("wip/")
    local.output.put(key, b"nothing")
    check(local, finish(local, spec, unit, 1))


def test_what_was_kept_in_another_layout_is_left_alone(
    local: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An earlier program kept it, without the steps that were taken."""
    spec, unit = planned(local)
    with monkeypatch.context() as earlier:
        earlier.setattr(work_in_progress, "_LAYOUT", 1)
        probe_image(local.workspace(spec), unit, ATTEMPTS[0], "b.png")
    (key,) = local.keys("wip/")
    state = load(local.output.get(key))
    local.output.put(key, save({name: tensor for name, tensor in state.items() if name != "steps_taken"}))
    check(local, finish(local, spec, unit, 1))
    assert local.keys("wip/") == []


@pytest.mark.parametrize("broken", ["infer_posteriors", "amortized_baseline"])
def test_an_image_too_large_for_memory_fails_alone(
    local: Workbench, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    real = getattr(encode, broken)

    def limited(model: Any, what: Any, *rest: Any) -> Any:
        # y_hat of the image of 70x64 pixels, or that image
        if tuple(what.shape[-2:]) == (4, 8) or tuple(what.shape[:2]) == (64, 70):
            raise MemoryError("too large")
        return real(model, what, *rest)

    monkeypatch.setattr(encode, broken, limited)
    rows = finish(local, *planned(local))
    check(local, rows, ["a.png", "c.png"])
    assert rows["b.png"].error_class == "out_of_memory"


def test_an_image_too_large_to_pack_leaves_the_pack_to_the_others(
    local: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = encode._check

    def limited(model: Any, items: Any, *rest: Any) -> Any:
        if any(item.width == 70 for item in items):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return real(model, items, *rest)

    monkeypatch.setattr(encode, "_check", limited)
    rows = finish(local, *planned(local))
    check(local, rows, ["a.png", "c.png"])
    assert rows["b.png"].error_class == "out_of_memory"


def test_a_fault_of_the_program_while_packing_is_no_lack_of_memory(
    local: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(encode, "_check", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        finish(local, *planned(local))


def test_what_a_worker_left_that_died_after_its_commit_goes(local: Workbench) -> None:
    spec, unit = planned(local)
    finish(local, spec, unit)
    before = local.rows()
    local.workspace(spec).wip(unit).keep(unit.images[0], {"y_hat": torch.zeros(1)})
    assert len(local.keys("wip/")) == 1
    finish(local, spec, unit, 1)
    assert local.keys("wip/") == [] and local.rows() == before


@pytest.mark.parametrize("fall_back", [False, True])
def test_an_image_that_diverges(local: Workbench, monkeypatch: pytest.MonkeyPatch, fall_back: bool) -> None:
    real = encode.refine

    def diverging(model: Any, images: Any, *rest: Any) -> Any:
        if np.array_equal(images[0], PICTURES["b.png"]):
            raise DivergedError("the refinement diverged by step 1; use a smaller learning rate")
        return real(model, images, *rest)

    monkeypatch.setattr(encode, "refine", diverging)
    rows = finish(local, *planned(local, refined(2), fall_back=fall_back))
    if fall_back:
        check(local, rows)
        assert rows["b.png"].method == "bits-back+bbvi" and "fell back" in str(rows["b.png"].error)
    else:
        check(local, rows, ["a.png", "c.png"])
        assert rows["b.png"].error_class == "diverged"


def test_an_image_that_never_decodes_fails_alone(local: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    from ncbatch.codec.bits_back.pack import pop_image
    from ncbatch.codec.errors import BitstreamError

    def broken(stack: Any, model: Any, entry: Any, **how: Any) -> Any:
        if entry.width == 70:
            raise BitstreamError("no")
        return pop_image(stack, model, entry, **how)

    with monkeypatch.context() as patch:
        patch.setattr("ncbatch.codec.bits_back.pack.pop_image", broken)
        rows = finish(local, *planned(local))
    check(local, rows, ["a.png", "c.png"])
    assert rows["b.png"].error_class == "decode_check"


def test_verify_names_every_image_that_damage_took_along(local: Workbench) -> None:
    spec, unit = planned(local)
    rows = finish(local, spec, unit)
    key, offset = rows["b.png"].bitstream_key, rows["b.png"].offset
    assert key is not None and offset is not None
    data = bytearray(local.output.get(key))
    data[offset + 20] ^= 4
    local.output.put(key, bytes(data))
    problems = {f.image_key: f.problem or "" for f in RunReader(local.output).verify()}
    assert problems["c.png"] == ""
    assert "hash differs" in problems["b.png"]
    assert "images 0 to 1 are lost" in problems["a.png"]


def test_calibration_counts_inference_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Encoding infers, and the decode check does it again. On a clock that only inference moves."""
    clock = [0.0]

    def encode(self: PackCoder, images: Any) -> None:
        clock[0] += self.recipe.inference[0]

    monkeypatch.setattr(PackCoder, "encode", encode)
    monkeypatch.setattr("ncbatch.worker.calibration.time.monotonic", lambda: clock[0])
    recipe = PLAIN.model_copy(update={"bbvi_steps": 1000})
    coder = PackCoder(None, recipe)  # type: ignore[arg-type]
    seconds = seconds_per_pixel(coder, FixedBatches(1), Bounds(1, 1, 1, 1))
    assert seconds * 512**2 == pytest.approx(1 + 2 * 1000)


def test_units_of_packs_have_enough_images() -> None:
    def sizes(*bytes_of: int) -> list[int]:
        images = [PlannedImage(f"{i}.png", "e", size) for i, size in enumerate(bytes_of)]
        return [len(u.images) for u in make_units(images, "v", "d", 0, 8 * 10_000, at_least=8)]

    assert sizes(*[20_000] * 17) == [8, 9]
    assert sizes(*[20_000] * 9) == [9]
    assert sizes(*[2_000_000] * 3) == [3]
    assert sizes(*[20_000] * 15, 2_000_000, 2_000_000) == [8, 9]


def test_variants_of_bits_back_take_a_model_of_that_kind() -> None:
    options = StoreOptions()
    assert make_variant({"method": "bits-back"}, options).model == "bits-back-0.010"
    with pytest.raises(UsageError, match="kind base; the method bits-back"):
        make_variant({"method": "bits-back", "model": "base-0.010"}, options)


def test_a_pack_of_a_run_is_decoded_to_the_names_of_its_images(local: Workbench, tmp_path: Any) -> None:
    local.add({"sub/d.jpg": encoded_as(PICTURES["a.png"], "JPEG"), "bad.png": b"none"})
    finish(local, *planned(local))
    (key,) = local.keys("packs/")
    store = open_store(str(tmp_path / "out"), create=True)
    names = list(decode_pack_file(local.output.uri + key, Destination(store), OPTIONS))
    assert names == ["sub/d.png", "c.png", "b.png", "a.png"]
    reader = RunReader(local.output)
    for image, name in zip(["sub/d.jpg", "c.png", "b.png", "a.png"], names, strict=True):
        np.testing.assert_array_equal(read_image(store.get(name)), reader.image(image, "v"))
    moved = tmp_path / "moved.ncbp"
    moved.write_bytes(local.output.get(key))
    assert list(decode_pack_file(str(moved), Destination(store), OPTIONS, first=3)) == ["00003.png"]


def test_images_of_a_pack_do_not_depend_on_the_batch(local: Workbench, tmp_path: Any) -> None:
    rows = finish(local, *planned(local, refined(4)), batch_size=4)
    other = Workbench(local.corpus, open_store(str(tmp_path / "other"), create=True), create_only=True)
    alone = finish(other, *planned(other, refined(4)))
    assert {k: r.mse for k, r in rows.items()} == {k: r.mse for k, r in alone.items()}
