"""A run planned before recipes were one class for each method: it is read, and goes on, as it was.

`earlier_run/` holds its `run.json` and its plan as they were written then; `asked.json` has what every
variant was asked for, and the digest that it was given.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ncbatch import layout
from ncbatch.codec.methods import CLASSICAL, DEFAULT_METHOD, KINDS, LEARNED, Sga
from ncbatch.codec.recipe import RefinedRecipe
from ncbatch.errors import SpecMismatchError
from ncbatch.plan.corpus import Listing
from ncbatch.plan.plan_files import read_plan
from ncbatch.plan.run import open_run
from ncbatch.plan.spec import RunSpec, Variant, check_same, read_run
from ncbatch.plan.units import PlannedImage
from ncbatch.store import LocalStore

EARLIER = Path(__file__).parent / "earlier_run"
ASKED: dict[str, Any] = json.loads((EARLIER / "asked.json").read_text())
LATER = {"patience": 0}
"""Settings that presets have come to have, at the value that runs of then go on with."""
IMAGES = [PlannedImage(f"{n}.png", f"etag-{n}", 10_000 * n, 64, 64 * n) for n in (1, 2, 3)]


@pytest.fixture
def output(tmp_path: Path) -> LocalStore:
    return LocalStore(Path(shutil.copytree(EARLIER, tmp_path / "run")))


def asked_again(name: str) -> Variant:
    """A variant as the same words ask for it today; what presets say since then is said not to be."""
    fields = dict(ASKED["variants"][name]["asked"])
    kind = KINDS[fields.setdefault("method", DEFAULT_METHOD)]
    if kind.model_fields["method"].default in CLASSICAL:
        return Variant(name=name, recipe=kind.model_validate(fields))
    preset = fields.pop("preset", None)
    said = {**LEARNED[fields["method"]].preset(preset), **LATER, **fields} if preset else fields
    said = {name: value for name, value in said.items() if name in kind.model_fields}
    recipe = kind.model_validate(said)
    return Variant(name=name, model="base-0.010", model_digest="0123456789abcdef" * 4, recipe=recipe)


def spec_again(**fields: Any) -> RunSpec:
    variants = tuple(asked_again(name) for name in ASKED["variants"])
    return RunSpec(**{"corpus": "s3://in/", "include": ("*.png",), "variants": variants, **fields})


def test_its_digests_are_what_they_were(output: LocalStore) -> None:
    stored = read_run(output)
    assert stored.spec.digest == stored.digest == ASKED["digest"]
    then = {name: said["digest"] for name, said in ASKED["variants"].items()}
    assert {variant.name: variant.digest for variant in stored.spec.variants} == then
    assert {variant.recipe.method for variant in stored.spec.variants} >= set(LEARNED)


@pytest.mark.parametrize("name", ASKED["variants"])
def test_the_same_words_ask_for_the_same_variant(output: LocalStore, name: str) -> None:
    again = asked_again(name)
    assert again == read_run(output).spec.variant(name)
    assert again.digest == ASKED["variants"][name]["digest"]


def test_it_goes_on(output: LocalStore) -> None:
    def cut_again(variant: str, images: object) -> int:
        raise AssertionError("nothing is planned anew")

    planned = read_plan(output, read_run(output).plan)
    check_same(read_run(output).spec, spec_again(), output.uri)
    run = open_run(spec_again(), Listing(IMAGES), output, cut_again, stored=read_run(output))
    assert [unit.id for unit in run.pending] == [unit.id for unit in planned]
    assert {unit.variant for unit in run.pending} == set(ASKED["variants"])


def test_what_is_cut_today_is_named_as_then(output: LocalStore, tmp_path: Path) -> None:
    planned = read_plan(output, read_run(output).plan)
    new = LocalStore(tmp_path / "new")
    run = open_run(spec_again(), Listing(IMAGES), new, lambda variant, images: 3 * 64 * 64)
    assert run.units == tuple(planned)
    assert read_run(new).digest == ASKED["digest"]


def test_other_settings_are_a_difference(output: LocalStore) -> None:
    variants = tuple(asked_again(name) for name in ASKED["variants"])
    recipe = variants[0].recipe
    assert isinstance(recipe, RefinedRecipe)
    changed = variants[0].model_copy(update={"recipe": recipe.model_copy(update={"beta1": 0.5})})
    with pytest.raises(SpecMismatchError, match=r"variants\.sga\.recipe\.beta1: 0\.9 there, 0\.5 asked for$"):
        check_same(read_run(output).spec, spec_again(variants=(changed, *variants[1:])), output.uri)


def test_a_presets_new_setting_is_a_difference_that_names_what_was(output: LocalStore) -> None:
    fast = asked_again("fast").model_copy(update={"recipe": Sga(lmbda=0.01, **Sga.preset("fast"))})
    variants = tuple(fast if name == "fast" else asked_again(name) for name in ASKED["variants"])
    with pytest.raises(SpecMismatchError, match=r"variants\.fast\.recipe\.patience: 0 there, 3 asked for$"):
        check_same(read_run(output).spec, spec_again(variants=variants), output.uri)


def test_settings_that_had_no_effect_are_passed_over(output: LocalStore) -> None:
    """An ncbatch of then took a seed and a learning rate for the amortized method, and wrote them down."""
    content = json.loads(output.get(layout.RUN))
    (amortized,) = (v for v in content["spec"]["variants"] if v["name"] == "amortized")
    amortized["recipe"] |= {"seed": 7, "learning_rate": 0.1}
    output.put(layout.RUN, json.dumps(content).encode())
    assert read_run(output).spec == spec_again()
