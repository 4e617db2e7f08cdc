"""What a run is, and when two are the same."""

from __future__ import annotations

import json
from typing import Any

import pydantic
import pytest

from ncbatch import layout
from ncbatch.errors import RunError, SpecMismatchError, UsageError
from ncbatch.plan.request import make_spec
from ncbatch.plan.spec import RunSpec, check_same, read_run
from ncbatch.store import StoreOptions
from tests.workbench import Workbench, make_image, make_variant, sga


def _spec(**fields: Any) -> RunSpec:
    return RunSpec(**{"corpus": "s3://in/", "variants": (make_variant(sga(100)),), **fields})


def _mismatch(stored: RunSpec, asked: RunSpec) -> str:
    with pytest.raises(SpecMismatchError) as failure:
        check_same(stored, asked, "s3://out/")
    return str(failure.value)


def test_everything_but_the_names_is_in_a_variants_digest() -> None:
    base = make_variant(sga(100))
    same = base.model_copy(update={"name": "w", "model": "/somewhere/else.safetensors"})
    assert same.digest == base.digest
    others = [make_variant(recipe) for recipe in (sga(101), sga(100, seed=1), sga(100, learning_rate=0.001))]
    others += [
        make_variant(sga(100), alpha="white"),
        make_variant(sga(100), max_pixels=5),
        make_variant(sga(100), max_bytes=5),
        make_variant(sga(100), fall_back=True),
        make_variant(sga(100), color="convert"),
        make_variant(sga(100), metadata="keep"),
        make_variant(sga(100), frames="refuse"),
        base.model_copy(update={"model_digest": "0" * 64}),
    ]
    assert len({variant.digest for variant in (base, *others)}) == 1 + len(others)


def test_the_limit_of_bytes_is_in_a_digest_where_it_is_not_the_usual_one() -> None:
    variant = make_variant(sga(100))
    assert "max_bytes" not in variant.digested(set())
    asked = _spec(variants=(make_variant(sga(100), max_bytes=5),))
    assert "variants.v.max_bytes: 1073741824 there, 5 asked for" in _mismatch(_spec(), asked)


def test_what_runs_of_before_did_with_colours_and_metadata_is_in_no_digest() -> None:
    assert not {"color", "metadata", "frames"} & set(make_variant(sga(100)).digested(set()))
    asked = _spec(variants=(make_variant(sga(100), color="convert", metadata="keep"),))
    message = _mismatch(_spec(), asked)
    assert "variants.v.color: ignore there, convert asked for" in message
    assert "variants.v.metadata: strip there, keep asked for" in message


def test_a_run_goes_on_under_its_own_settings() -> None:
    stored = _spec()
    check_same(stored, _spec(), "s3://out/")
    check_same(stored, _spec(create_only=False), "s3://out/")
    moved = make_variant(sga(100)).model_copy(update={"model": "/copy/of/base.safetensors"})
    check_same(stored, _spec(variants=(moved,)), "s3://out/")


def test_a_mismatch_prints_every_difference_with_both_values() -> None:
    asked = _spec(
        corpus="s3://other/", include=("*.png",), variants=(make_variant(sga(200, seed=7), alpha="white"),)
    )
    message = _mismatch(_spec(), asked)
    assert message.startswith(
        "s3://out/ holds a run with other settings; use its settings to continue it, or another output."
    )
    differences = message.partition("Differences: ")[2].split("; ")
    assert differences == [
        "corpus: s3://in/ there, s3://other/ asked for",
        "include: [] there, ['*.png'] asked for",
        "variants.v.alpha: refuse there, white asked for",
        "variants.v.recipe.annealing_rate: 0.02 there, 0.01 asked for",
        "variants.v.recipe.plateau: 35.0 there, 70.0 asked for",
        "variants.v.recipe.seed: 0 there, 7 asked for",
        "variants.v.recipe.steps: 100 there, 200 asked for",
    ]


def test_variants_of_one_side_are_named_only() -> None:
    stored = _spec(variants=(make_variant(sga(100)),))
    alone = make_variant(sga(100)).model_copy(update={"name": "v.2"})
    message = _mismatch(stored, _spec(variants=(make_variant(sga(50)), alone)))
    assert "v.recipe.steps: 100 there, 50 asked for" in message
    assert message.endswith("variants only asked for: v.2") and "v.2." not in message


def test_another_model_is_a_difference() -> None:
    other = make_variant(sga(100)).model_copy(update={"model": "other", "model_digest": "0" * 64})
    message = _mismatch(_spec(), _spec(variants=(other,)))
    assert "variants.v.model: base-0.010 there, other asked for" in message
    assert f"{'0' * 64} asked for" in message


def test_a_variant_of_another_name_is_a_difference() -> None:
    message = _mismatch(_spec(), _spec(variants=(make_variant(sga(100), name="w"),)))
    assert message.endswith("variants only there: v; variants only asked for: w")


def test_two_variants_of_one_name_are_refused() -> None:
    with pytest.raises(pydantic.ValidationError, match="two variants are called 'v'"):
        _spec(variants=(make_variant(sga(1)), make_variant(sga(2))))


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "..", "a b", "x" * 65, "ü"])
def test_names_that_cannot_be_folders_are_refused(name: str) -> None:
    with pytest.raises(pydantic.ValidationError, match="must be up to 64 letters"):
        make_variant(name=name)


def test_another_run_in_the_output_is_refused(local: Workbench) -> None:
    local.add({"a.png": make_image()})
    local.open(local.spec())
    before = local.output.get(layout.RUN)
    with pytest.raises(SpecMismatchError, match=r"variants\.v\.recipe\.steps: 0 there, 2 asked for"):
        local.open(local.spec(make_variant(sga(2))))
    assert local.output.get(layout.RUN) == before


def test_a_run_file_comes_back(local: Workbench) -> None:
    local.add({"a.png": make_image()})
    spec = local.spec(make_variant(sga(2), alpha="black"), make_variant(name="w"), include=("*",))
    local.open(spec)
    assert read_run(local.output).spec == spec
    assert read_run(local.output).digest == spec.digest


def test_a_folder_without_a_run_is_said_to_be(local: Workbench) -> None:
    with pytest.raises(RunError, match=r"output/ holds no run: run.json is missing"):
        read_run(local.output)


def test_a_damaged_or_newer_run_file_is_said_to_be(local: Workbench) -> None:
    local.add({"a.png": make_image()})
    local.open(local.spec())
    data = local.output.get(layout.RUN)
    content = json.loads(data)
    newer = json.dumps(content | {"format": 2}).encode()
    unknown = json.dumps(content | {"spec": content["spec"] | {"colour": "red"}}).encode()
    for damaged in (b"", b"\xff\xfe", data[:-20], newer, unknown, b"[]"):
        local.output.put(layout.RUN, damaged)
        with pytest.raises(RunError, match=r"run.json is damaged or from a newer ncbatch; upgrade"):
            read_run(local.output)


# Requests


def _asked(**fields: Any) -> RunSpec:
    return make_spec(".", StoreOptions(), [{"method": "sga", "lmbda": 0.01, **fields}])


def test_a_request_is_completed() -> None:
    variant: Any
    (variant,) = _asked().variants
    assert (variant.name, variant.model, variant.recipe.steps) == ("sga", "base-0.010", 2000)
    assert _asked().corpus.startswith("file:///")
    (variant,) = _asked(method="amortized", name="base").variants
    assert (variant.name, variant.recipe.steps) == ("base", 0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lmbda": -1.0}, "--lmbda: .*greater than 0"),
        ({"lmbda": 0.0}, "--lmbda: .*greater than 0"),
        ({"steps": -1}, "--steps: -1 is not at least 1"),
        ({"steps": 0}, "--steps: 0 is not at least 1"),
        ({"method": "bits-back", "steps": 5}, "the method bits-back does not refine; leave out steps"),
        ({"name": "a/b"}, "--name: must be up to 64 letters"),
        ({"learning_rate": 2}, "--learning-rate: 2 is not at most 1"),
        ({"max_pixels": 0}, "--max-pixels: .*greater than 0"),
    ],
)
def test_a_wrong_value_names_its_flag(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        _asked(**fields)
