"""Images that go together, and what happens when they cannot."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from ncbatch import layout
from ncbatch.codec import codecs
from ncbatch.codec.encode import encode, find_latents
from ncbatch.codec.errors import DecodeCheckError, DivergedError
from ncbatch.plan.spec import RunSpec, Variant
from ncbatch.plan.units import Unit
from ncbatch.worker import waiting
from ncbatch.worker.unit import run_unit
from tests.workbench import AMORTIZED, ATTEMPTS, MODEL, Workbench, make_image, make_variant, sga

SIZES = {
    "a": (64, 64),
    "b": (100, 60),
    "c": (60, 64),
    "d": (64, 33),
    "e": (128, 64),
    "f": (10, 10),
    "g": (64, 64),
}
PICTURES = {f"{name}.png": make_image(*size, seed=n) for n, (name, size) in enumerate(SIZES.items())}
CPU_MESSAGE = "[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: you tried ..."


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Lets refinement go wrong; returns the list in which the sizes of the batches are noted."""

    def install(trouble: Callable[[Any], BaseException | None] = lambda images: None) -> list[int]:
        sizes = []

        def faulty(model: Any, images: Any, recipe: Any, **options: Any) -> Any:
            if recipe.refines:
                sizes.append(len(images))
                error = trouble(images)
                if error is not None:
                    raise error
            return find_latents(model, images, recipe, **options)

        monkeypatch.setattr(codecs, "find_latents", faulty)
        return sizes

    return install


def _planned(
    bench: Workbench, variant: Variant | None = None, images: Any = PICTURES
) -> tuple[RunSpec, Unit]:
    bench.add(images)
    spec = bench.spec(variant or make_variant(sga(2)))
    return spec, bench.unit(spec)


def test_images_of_one_padded_shape_go_together(local: Workbench, batches: Any) -> None:
    spec, unit = _planned(local)
    sizes = batches()
    run_unit(local.workspace(spec, batch_size=4), unit, ATTEMPTS[0], {})
    assert sizes == [4, 2, 1], "four of 64 x 64 at once, then two of 128 x 64, then what was left"
    rows = local.rows()
    assert rows.keys() == PICTURES.keys()
    for key, row in rows.items():
        assert row.mse == pytest.approx(local.mse(row, PICTURES[key])), key
    assert sorted(row.batch_size or 0 for row in rows.values()) == [1, 2, 2, 4, 4, 4, 4]


def test_few_images_are_held_in_memory(
    local: Workbench, batches: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "_HELD_SAMPLES", 3 * 64 * 64)
    spec, unit = _planned(local)
    sizes = batches()
    run_unit(local.workspace(spec, batch_size=100), unit, ATTEMPTS[0], {})
    assert sum(sizes) == len(PICTURES)
    assert len(sizes) > 3
    assert local.rows().keys() == PICTURES.keys()


@pytest.mark.parametrize("error", [MemoryError("no"), RuntimeError(CPU_MESSAGE)], ids=["python", "torch"])
def test_out_of_memory_halves_the_batch_and_remembers(
    local: Workbench, batches: Any, error: Exception
) -> None:
    images = {f"{n}.png": make_image(seed=n) for n in range(8)}
    spec, unit = _planned(local, images=images)
    sizes = batches(lambda batch: error if len(batch) > 2 else None)
    workspace = local.workspace(spec, batch_size=5)
    run_unit(workspace, unit, ATTEMPTS[0], {})
    assert sizes == [5, 2, 3, 1, 2, 1, 1, 1], "the later ones come in the size that worked"
    assert workspace.batching(spec.variants[0]).size((64, 64)) == 1
    rows = local.rows()
    assert rows.keys() == images.keys()
    assert {row.status for row in rows.values()} == {"ok"}


def test_the_memory_of_a_failed_batch_is_free_again(local: Workbench, batches: Any) -> None:
    """Python keeps what an error came through for as long as the error is being handled."""
    spec, unit = _planned(local, images={"a.png": make_image(seed=1), "b.png": make_image(seed=2)})
    handled = []

    def trouble(batch: Any) -> BaseException | None:
        handled.append(sys.exc_info()[1])
        return MemoryError("no") if len(batch) > 1 else None

    batches(trouble)
    run_unit(local.workspace(spec, batch_size=2), unit, ATTEMPTS[0], {})
    assert handled == [None, None, None]


def test_a_single_image_too_large_for_memory_fails_alone(local: Workbench, batches: Any) -> None:
    spec, unit = _planned(local)
    batches(lambda batch: MemoryError("19 GiB") if batch[0].shape[1] > 64 else None)
    result = run_unit(local.workspace(spec), unit, ATTEMPTS[0], {})
    failed = {key: row for key, row in local.rows().items() if row.status == "failed"}
    assert failed.keys() == {"b.png", "e.png"}
    assert {row.error_class for row in failed.values()} == {"out_of_memory"}
    assert {row.error for row in failed.values()} == {"the image does not fit in memory: 19 GiB"}
    assert (result.ok, result.failed) == (len(PICTURES) - 2, 2)


@pytest.mark.parametrize("error", [DivergedError("at step 50"), DecodeCheckError("not what was coded")])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_what_diverges_is_never_published(
    local: Workbench, batches: Any, error: Exception, batch_size: int
) -> None:
    spec, unit = _planned(local)
    batches(lambda batch: error if any(p.shape[:2] == (33, 64) for p in batch) else None)
    run_unit(local.workspace(spec, batch_size=batch_size), unit, ATTEMPTS[0], {})
    rows = local.rows()
    failed = rows.pop("d.png")
    expected = "diverged" if isinstance(error, DivergedError) else "decode_check"
    assert (failed.status, failed.error_class, failed.error) == ("failed", expected, str(error))
    assert {row.status for row in rows.values()} == {"ok"}, "its neighbours are done without it"
    assert not [key for key in local.keys(layout.BITSTREAMS_PREFIX) if "d.png" in key]


def test_where_the_variant_allows_it_the_amortized_encoding_is_published(
    local: Workbench, batches: Any
) -> None:
    spec, unit = _planned(local, make_variant(sga(2), fall_back=True), {"a.png": make_image()})
    batches(lambda batch: DivergedError("at step 50"))
    run_unit(local.workspace(spec), unit, ATTEMPTS[0], {})
    row = local.rows()["a.png"]
    assert local.bitstream(row) == encode(MODEL, [make_image()], AMORTIZED)[0].outcome.data
    assert (row.status, row.method, row.error_class) == ("ok", "amortized", None)
    assert row.error == "fell back to the amortized encoding: at step 50"


@pytest.mark.parametrize("diverges", [True, False])
def test_a_fallback_of_an_attempt_that_died_is_never_taken_for_a_refined_image(
    local: Workbench, batches: Any, diverges: bool
) -> None:
    """The bytes do not say why they are not refined, so the image is done again."""
    spec, unit = _planned(local, make_variant(sga(200), fall_back=True), {"a.png": make_image()})
    standing = encode(MODEL, [make_image()], AMORTIZED)[0].outcome.data
    key = layout.bitstream_key("v", "a.png", 0)
    local.output.put(key, standing)
    if diverges:
        batches(lambda batch: DivergedError("at step 50"))
    run_unit(local.workspace(spec), unit, ATTEMPTS[1], {})
    row = local.rows()["a.png"]
    assert local.output.get(key) == standing and not row.adopted
    if diverges:
        assert (row.method, row.bitstream_key) == ("amortized", key)
        assert row.error == "fell back to the amortized encoding: at step 50"
    else:
        assert (row.method, row.error) == ("sga", None) and row.bitstream_key != key
        assert row.rd_loss is not None and row.amortized_rd_loss is not None
        assert row.rd_loss < row.amortized_rd_loss


@pytest.mark.parametrize("error", [RuntimeError("a bug"), ValueError("a bug"), AssertionError("a bug")])
def test_a_bug_is_not_made_a_row(local: Workbench, batches: Any, error: Exception) -> None:
    spec, unit = _planned(local)
    batches(lambda batch: error)
    with pytest.raises(type(error), match="a bug"):
        run_unit(local.workspace(spec), unit, ATTEMPTS[0], {})
    assert local.keys("units/") == []
