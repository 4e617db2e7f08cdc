"""Spec files: from YAML to the variants of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ncbatch.codec.methods import BitsBack, BitsBackBbvi, Sga, SgaBitsBack, Ste
from ncbatch.errors import NcbatchError, UsageError
from ncbatch.plan.request import make_spec, read_spec_file, storage_profile
from ncbatch.store import StoreOptions

OPTIONS = StoreOptions()


def variants(folder: Path, text: str) -> dict[str, Any]:
    """The variants of a spec file by name; which fields their recipes have depends on the method."""
    (folder / "spec.yaml").write_text(text)
    requests = read_spec_file(str(folder / "spec.yaml"), OPTIONS)
    return {variant.name: variant for variant in make_spec(".", OPTIONS, requests).variants}


def test_one_entry_is_one_variant(tmp_path: Path) -> None:
    found = variants(tmp_path, "variants: [{method: map, steps: 30, lmbda: 0.02, alpha: white}]")
    recipe = found["map"].recipe
    assert (recipe.method, recipe.steps, recipe.lmbda, found["map"].alpha) == ("map", 30, 0.02, "white")


def test_by_default_colours_are_converted_and_ncb_files_carry_metadata(tmp_path: Path) -> None:
    text = "variants: [{method: [sga, jpeg], quality: 60}, {method: sga+bits-back, name: packed}]"
    found = variants(tmp_path, text)
    assert {name: (v.color, v.metadata) for name, v in found.items()} == {
        "sga": ("convert", "keep"), "jpeg": ("convert", "strip"), "packed": ("convert", "strip"),
    }  # fmt: skip
    said = variants(tmp_path, "variants: [{method: [sga, jpeg], quality: 60, color: ignore, metadata: keep}]")
    assert {name: (v.color, v.metadata) for name, v in said.items()} == {
        "sga": ("ignore", "keep"), "jpeg": ("ignore", "strip"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("method: jpeg, quality: 60, color: keep", "the jpg files of the method jpeg hold images only"),
        (
            "method: sga+bits-back, metadata: keep",
            r"the packs of the method sga\+bits-back.*--metadata strip",
        ),
        (
            "method: webp, quality: 60, alpha: keep",
            "--alpha keep: the webp files of .*give --alpha white or black",
        ),
        ("color: srgb", "color: .*convert"),
    ],
)
def test_what_cannot_be_carried_is_told(tmp_path: Path, fields: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        variants(tmp_path, f"variants: [{{{fields}}}]")


def test_lists_are_multiplied_and_named_by_what_differs(tmp_path: Path) -> None:
    text = "variants: [{method: [sga, ste], lmbda: [0.005, 0.01], steps: 30, rounding: ssl}]"
    found = variants(tmp_path, text)
    assert list(found) == ["sga-0.005", "sga-0.01", "ste-0.005", "ste-0.01"]
    assert found["sga-0.005"].recipe.rounding == "ssl" and isinstance(found["ste-0.01"].recipe, Ste)
    assert found["ste-0.01"].recipe.learning_rate == 1e-4


def test_amortized_has_no_steps_to_multiply_by(tmp_path: Path) -> None:
    found = variants(tmp_path, "variants: [{method: [amortized, sga], steps: [10, 20]}]")
    assert list(found) == ["amortized", "sga-10", "sga-20"]
    presets = variants(tmp_path, "variants: [{method: [amortized, sga], preset: fast, name: '{method}'}]")
    assert [v.recipe.steps for v in presets.values()] == [0, 300]
    assert found["amortized"].recipe.steps == 0


def test_names_may_hold_fields(tmp_path: Path) -> None:
    text = "variants: [{name: 'r{lmbda}_{seed}', lmbda: 0.01, steps: 10, seed: [0, 7]}]"
    assert list(variants(tmp_path, text)) == ["r0.01_0", "r0.01_7"]


def test_presets_are_recipes_that_fields_may_change(tmp_path: Path) -> None:
    found = variants(tmp_path, "variants: [{preset: [paper, fast]}, {preset: fast, seed: 3, name: mine}]")
    assert list(found) == ["paper", "fast", "mine"]
    assert found["paper"].recipe == Sga(lmbda=0.01, steps=2000)
    assert found["mine"].recipe == found["fast"].recipe.model_copy(update={"seed": 3})


def test_presets_of_bits_back_are_of_its_inference_too(tmp_path: Path) -> None:
    methods = "[sga, bits-back, bits-back+bbvi, sga+bits-back]"
    found = variants(tmp_path, f"variants: [{{preset: fast, lmbda: 0.01, method: {methods}}}]")
    assert {v.recipe.method: v.recipe for v in found.values()} == {
        "sga": Sga(lmbda=0.01, **Sga.preset("fast")),
        "bits-back": BitsBack(lmbda=0.01),
        "bits-back+bbvi": BitsBackBbvi(lmbda=0.01, bbvi_steps=100, bbvi_learning_rate=0.02),
        "sga+bits-back": SgaBitsBack(lmbda=0.01, **SgaBitsBack.preset("fast")),
    }
    fast = found["fast-sga+bits-back"].recipe
    assert isinstance(fast, SgaBitsBack) and (fast.steps, fast.bbvi_steps, fast.noise) == (300, 100, 0.45)


def test_a_models_own_lmbda_is_the_default_and_may_differ(tmp_path: Path) -> None:
    entry = {"model": "base-0.010", "steps": 3}
    (own,) = make_spec(".", OPTIONS, [entry]).variants
    (other,) = make_spec(".", OPTIONS, [entry | {"lmbda": 0.03}]).variants
    recipes: list[Any] = [own.recipe, other.recipe]
    assert [recipe.lmbda for recipe in recipes] == [0.01, 0.03]
    assert own.model_digest == other.model_digest and own.digest != other.digest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("variants: 3", "one list of mappings called `variants`"),
        ("variants: []", "one list of mappings called `variants`"),
        ("variants: [{}]\nvariant: 1", "one list of mappings called `variants`"),
        ("variants: [sga]", "variant 1 of .* is not a mapping"),
        (
            "variants: [{}, {stepz: 3}]",
            r"variant 2 of .* has an unknown field: there is no 'stepz' \(did you mean steps",
        ),
        ("variants: [{method: magic}]", "--method: there is no 'magic'; the choices are amortized, sga"),
        ("variants: [{steps: []}]", "empty list for 'steps'"),
        ("variants: [{steps: 3}, {steps: 4}]", "two variants are called 'sga'"),
        ("variants: [{name: '{foo}', steps: [3, 4]}]", "refers to a field that it does not set: 'foo'"),
        ("variants: [{preset: quick}]", "--preset: there is no 'quick'; the choices are paper, fast, best"),
        ("variants: [{steps: 3}, {preset: quick}]", "variant quick: --preset: there is no 'quick'"),
        ("variants: [{method: jpeg, quality: 5}, {method: webp}]", "variant webp: --quality is missing"),
        ("variants: [{steps: many}]", "--steps: 'many' is not a whole number"),
        ("variants: [{lmbda: [0.01, -1]}]", "variant sga--1: --lmbda: -1 is not greater than 0"),
        ("variants: [{method: map, tau0: 0.5}]", "the method map has no temperature; leave out tau0"),
        (
            "variants: [{method: map, noise: 0.5}]",
            "noise is a setting of the method sga; map does not",
        ),
        ("variants: [{method: map, preset: fast}]", "the preset fast is not for the method map"),
        (
            "variants: [{method: amortized, preset: fast}]",
            "the method amortized does not refine; leave out",
        ),
        ("variants: [{method: amortized, seed: 3}]", "the method amortized does not refine; leave out seed"),
        (
            "variants: [{method: sga, bbvi_steps: 3}]",
            "sga does no inference; leave out bbvi_steps",
        ),
        ("variants: [{method: bits-back, bbvi_steps: 3}]", "use bits-back\\+bbvi, which bbvi_steps is for"),
        ("variants: [{method: bpg, quality: 52}]", "--quality: of bpg it is the quantiser, 0 to 51"),
        ("variants: [{method: jpeg, quality: 5, steps: 3}]", "--steps is not for jpeg; it has --quality"),
        ("variants: [{model: none}]", "there is no model 'none'"),
        ("variants: [", "is not valid YAML"),
    ],
)
def test_what_is_wrong_with_a_spec_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(NcbatchError, match=message):
        variants(tmp_path, text)


def test_a_missing_spec_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no spec file .*/spec\.yaml"):
        read_spec_file(str(tmp_path / "spec.yaml"), OPTIONS)


_PROFILE = """
storage:
  sse: aws:kms
  requester-pays: true
  buckets: {raw: {unsigned: true, region: eu-west-1}}
variants: [{method: map}]
"""


def test_a_spec_file_may_say_what_storage_needs(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(_PROFILE)
    found = storage_profile(str(path), StoreOptions(storage_option=("sse=AES256",)))
    assert found.of_bucket("out").sse == "AES256", "a flag counts more than the file"
    assert found.of_bucket("out").requester_pays and not found.of_bucket("out").unsigned
    assert found.of_bucket("raw").unsigned and found.of_bucket("raw").region == "eu-west-1"
    assert [request["method"] for request in read_spec_file(str(path), OPTIONS)] == ["map"]


@pytest.mark.parametrize(
    ("storage", "message"),
    [
        ("{sses: AES256}", "`storage` in the spec file .*did you mean sse"),
        ("{storage-class: GLACIER}", "GLACIER cannot be read without being restored"),
        ("[sse]", "is not a mapping of options"),
        ("{buckets: {raw: yes}}", "`buckets` in the spec file .* is not a mapping"),
    ],
)
def test_what_is_wrong_with_a_profile_of_storage_is_named(tmp_path: Path, storage: str, message: str) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(f"storage: {storage}\nvariants: [{{method: map}}]")
    with pytest.raises(UsageError, match=message):
        storage_profile(str(path), OPTIONS)


def test_a_target_takes_the_place_of_lmbda_and_model(tmp_path: Path) -> None:
    found = variants(tmp_path, "variants: [{preset: fast, target_psnr: [30, 34]}]")
    assert list(found) == ["fast-30", "fast-34"]
    variant = found["fast-34"]
    assert (variant.model, variant.model_digest, len(variant.ladder)) == (None, None, 7)
    assert [model.lmbda for model in variant.ladder] == sorted(model.lmbda for model in variant.ladder)
    assert variant.models == {model.digest: model.name for model in variant.ladder}
    assert variant.recipe.target is not None
    assert (variant.recipe.target.measure, variant.recipe.target.value) == ("psnr", 34)
    assert variant.digest != found["fast-30"].digest
    assert "target_psnr" not in variants(tmp_path, "variants: [{preset: fast}]")["fast"].recipe.digested()
    one = variants(tmp_path, "variants: [{target_bytes: 900, model: base-0.010}]")["sga"]
    assert (one.model, one.ladder, list(one.models.values())) == ("base-0.010", (), ["base-0.010"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            "target_psnr: 30, lmbda: 0.01",
            "--lmbda cannot be given beside --target-psnr, for which it is searched",
        ),
        ("target_psnr: 30, target_bpp: 1", "targets of psnr and of bpp cannot both be met"),
        ("target_ssim: 1", "of 1 for MS-SSIM is a lossless image"),
        ("target_psnr: 30, method: amortized", "the method amortized does not refine; leave out target_psnr"),
        ("target_psnr: 30, method: sga+bits-back", "a target is for methods that make a file of each image"),
        ("target_bytes: 0", "--target-bytes: 0 is not at least 1"),
    ],
)
def test_targets_that_cannot_be(tmp_path: Path, fields: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        variants(tmp_path, f"variants: [{{{fields}}}]")
