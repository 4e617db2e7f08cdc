"""Images that are to have a certain size or quality: rows, resumption, adoption, and what cannot be met."""

from __future__ import annotations

import math
from typing import Any

import pytest

from ncbatch.codec import bitstream
from ncbatch.codec.encode import encode
from ncbatch.codec.methods import Sga
from ncbatch.codec.refinement.adam import PerImageAdam
from ncbatch.codec.target import TARGET_FIELDS
from ncbatch.metrics.schema import Row
from ncbatch.models import zoo
from ncbatch.plan.spec import LadderModel, RunSpec, Variant
from ncbatch.plan.units import Unit
from ncbatch.store import open_store
from ncbatch.worker.unit import open_attempt, run_unit
from ncbatch.worker.workspace import Workspace
from tests.workbench import ATTEMPTS, Workbench, make_image, make_variant
from tests.worker.test_work_in_progress import DeadlyStore, Killed

NAMES = ("base-0.005", "base-0.010", "base-0.020")
CHECKPOINTS = {name: zoo.load_builtin(name) for name in NAMES}
LADDER = tuple(
    LadderModel(name=name, digest=checkpoint.digest, lmbda=checkpoint.info.lmbda)
    for name, checkpoint in CHECKPOINTS.items()
)
IMAGES = {"a.png": make_image(128, 96, seed=1), "b.png": make_image(100, 96, seed=2)}
QUICK: dict[str, Any] = {"learning_rate": 0.05, "rounding": "linear", "noise": 0.2, "check_every": 2}


def _variant(steps: int = 20, name: str = "v", **target: Any) -> Variant:
    return Variant(name=name, ladder=LADDER, recipe=Sga(lmbda=0.01, steps=steps, **QUICK, **target))


def _planned(bench: Workbench, **target: Any) -> tuple[RunSpec, Unit]:
    bench.add(IMAGES)
    spec = bench.spec(_variant(**target))
    for name in NAMES:
        checkpoint = CHECKPOINTS[name]
        bench.output.put_if_absent(f"models/{checkpoint.digest}.safetensors", checkpoint.to_bytes())
    return spec, bench.unit(spec)


def _bytes(bench: Workbench) -> dict[str, bytes]:
    return {key: bench.output.get(str(row.bitstream_key)) for key, row in bench.rows().items()}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    """A run whose images are to take half a bit a pixel."""
    root = tmp_path_factory.mktemp("targets")
    corpus, output = (open_store(str(root / name), create=True) for name in ("in", "out"))
    bench = Workbench(corpus, output, create_only=True)
    spec, unit = _planned(bench, target_bpp=0.5)
    run_unit(bench.workspace(spec, batch_size=2), unit, ATTEMPTS[0], {})
    return bench


def test_rows_say_what_was_asked_what_came_and_after_how_many_tries(done: Workbench) -> None:
    digests = {model.digest: model for model in LADDER}
    for key, row in done.rows().items():
        assert (row.status, row.target_measure, row.target_value) == ("ok", "bpp", 0.5)
        assert row.width is not None and row.height is not None
        assert row.target_came == row.bpp == len(_bytes(done)[key]) * 8 / (row.width * row.height)
        assert row.target_met == (abs(math.log(row.target_came / 0.5)) <= 0.01)
        assert (row.error is None) == row.target_met
        assert row.target_tries is not None and 1 <= row.target_tries <= 7
        assert row.steps_taken is not None and 20 <= row.steps_taken <= 32
        assert row.model_digest in digests and row.model == digests[row.model_digest].name
        made_by = bitstream.parse(_bytes(done)[key], max_pixels=10**6).model_digest
        assert row.model_digest.startswith(made_by)
        assert row.lmbda is not None and row.mse is not None and row.bpp is not None
        assert row.rd_loss == pytest.approx(row.bpp + row.lmbda * row.mse)
    assert any(row.target_met and row.error is None for row in done.rows().values())


@pytest.mark.parametrize("saves", [1, 3])
def test_an_interrupted_search_ends_with_the_same_bytes(
    local: Workbench, done: Workbench, saves: int
) -> None:
    spec, unit = _planned(local, target_bpp=0.5)
    workspace = local.workspace(spec, wip_seconds=0.0)
    workspace.output = DeadlyStore(local.output, saves)
    with pytest.raises(Killed):
        run_unit(workspace, unit, ATTEMPTS[0], {})
    assert len(local.keys("wip/")) == 1
    run_unit(local.workspace(spec), unit, ATTEMPTS[1], {})
    assert _bytes(local) == _bytes(done)
    told = ("target_came", "target_tries", "lmbda", "model", "steps_taken", "rd_loss")
    for key, row in local.rows().items():
        assert [getattr(row, name) for name in told] == [getattr(done.rows()[key], name) for name in told]


def test_what_was_published_before_a_commit_is_adopted_where_it_meets_the_target(
    local: Workbench, done: Workbench
) -> None:
    spec, unit = _planned(local, target_bpp=0.5)
    attempt = open_attempt(local.workspace(spec), unit, ATTEMPTS[0])
    assert len(list(attempt.rows(unit.images, {}))) == 2
    run_unit(local.workspace(spec), unit, ATTEMPTS[1], {})
    assert _bytes(local) == _bytes(done)
    for key, row in local.rows().items():
        known = done.rows()[key]
        assert row.adopted == known.target_met, "others are searched for again, and end the same"
        assert (row.target_came, row.target_met) == (known.target_came, known.target_met)
        if row.adopted:
            assert (row.lmbda, row.target_tries, row.rd_loss, row.error) == (None, None, None, None)
            assert (row.model, row.model_digest) == (known.model, known.model_digest)


def _one(bench: Workbench, variant: Variant) -> Row:
    bench.add({"a.png": IMAGES["a.png"]})
    spec = bench.spec(variant)
    for checkpoint in CHECKPOINTS.values():
        bench.output.put_if_absent(f"models/{checkpoint.digest}.safetensors", checkpoint.to_bytes())
    return bench.encode(spec)["a.png"]


def test_a_target_out_of_reach_gives_the_nearest_and_a_note(local: Workbench) -> None:
    row = _one(local, _variant(steps=10, target_psnr=90.0))
    assert (row.status, row.target_met) == ("ok", False)
    assert row.target_came == row.psnr and row.model == "base-0.020"
    assert row.error is not None and row.error.startswith("the target of a PSNR of 90.00 dB was not met")
    assert f"{row.psnr:.2f} dB" in row.error


def test_an_image_too_small_for_ms_ssim_becomes_a_failed_row(local: Workbench) -> None:
    row = _one(local, _variant(target_ssim=0.98))
    assert (row.status, row.error_class) == ("failed", "too_small")
    assert "128 x 96 pixels: MS-SSIM needs at least 161 a side" in str(row.error)
    assert row.lmbda is None and row.target_measure is None


def test_an_image_too_small_for_its_distortion_becomes_a_failed_row(local: Workbench) -> None:
    row = _one(local, make_variant(Sga(lmbda=0.01, steps=2, distortion="mix:0.5")))
    assert (row.status, row.error_class) == ("failed", "too_small")
    assert str(row.error).endswith("at least 161 a side; encode it into another output with --distortion mse")


def test_one_model_alone_may_be_searched(local: Workbench) -> None:
    """Its bytes are those of a refinement that was told at once what was found, or better."""
    recipe = Sga(lmbda=0.01, steps=20, **QUICK, target_psnr=33.0)
    checkpoint = CHECKPOINTS["base-0.010"]
    variant = Variant(name="v", model="base-0.010", model_digest=checkpoint.digest, recipe=recipe)
    row = _one(local, variant)
    assert (row.status, row.model, row.model_digest) == ("ok", "base-0.010", checkpoint.digest)
    assert row.lmbda is not None and row.rd_loss is not None and row.lmbda != 0.01
    plain = recipe.model_copy(update={**dict.fromkeys(TARGET_FIELDS), "lmbda": row.lmbda})
    workspace: Workspace = local.workspace(local.spec(variant))
    (direct,) = encode(workspace.models.get(checkpoint.digest), [IMAGES["a.png"]], plain)
    assert row.rd_loss <= direct.outcome.loss * 1.01


@pytest.mark.parametrize("fall_back", [False, True])
def test_what_diverges_is_a_failed_row_or_falls_back(
    local: Workbench, monkeypatch: pytest.MonkeyPatch, fall_back: bool
) -> None:
    monkeypatch.setattr(PerImageAdam, "factors", lambda self, taken, rate: (float("nan"), 1.0))
    row = _one(local, _variant(target_bpp=0.5).model_copy(update={"fall_back": fall_back}))
    if not fall_back:
        assert (row.status, row.error_class, row.target_value) == ("failed", "diverged", None)
        return
    assert (row.status, row.method, row.target_value) == ("ok", "amortized", 0.5)
    assert row.lmbda in (0.005, 0.01, 0.02) and "fell back to the amortized encoding" in str(row.error)
    assert row.target_came == row.bpp and row.target_met is False
