"""Methods: what each has, and what may never change of them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ncbatch.codec import bitstream
from ncbatch.codec.methods import (
    FIELDS,
    KINDS,
    LEARNED,
    PACKED_METHODS,
    Amortized,
    BitsBack,
    Map,
    Sga,
    SgaBitsBack,
    default_of,
)


def test_numbers_in_bitstreams_are_for_good() -> None:
    """Append to this list, and change nothing in it: files carry these numbers."""
    assert bitstream.METHODS == {
        0: "amortized",
        1: "sga",
        2: "map",
        3: "ste",
        4: "uniform-noise",
        5: "deterministic-annealing",
        6: "bits-back",
        7: "bits-back+bbvi",
        8: "sga+bits-back",
    }
    assert {method: kind.number for method, kind in LEARNED.items()} == {
        method: number for number, method in bitstream.METHODS.items()
    }


def test_a_method_has_its_own_fields_only() -> None:
    def own(method: str) -> set[str]:
        return set(KINDS[method].model_fields) - {"method", "lmbda"}

    adam = {"steps", "learning_rate", "seed", "decay", "beta1", "beta2", "check_every", "patience"}
    adam |= {"distortion"}
    adam |= {"target_psnr", "target_bpp", "target_bytes", "target_ssim"}
    schedule, inference = {"tau0", "annealing_rate", "plateau"}, {"bbvi_steps", "bbvi_learning_rate"}
    gumbel = {"rounding", "noise"}
    assert own("amortized") == own("bits-back") == set()
    assert own("map") == own("ste") == own("uniform-noise") == adam
    assert own("deterministic-annealing") == adam | schedule
    assert own("sga") == adam | schedule | gumbel
    assert own("bits-back+bbvi") == inference
    assert own("sga+bits-back") == adam | schedule | gumbel | inference
    assert own("jpeg") == own("bpg") == {"quality"}
    assert not hasattr(KINDS["map"], "tau")


def test_what_is_nothing_may_be_said_of_a_field_that_a_method_does_not_have() -> None:
    assert Map.model_validate({"lmbda": 1, "tau0": None, "rounding": "atanh"}) == Map(lmbda=1)
    assert Amortized.model_validate({"lmbda": 1, "steps": 0}) == Amortized(lmbda=1)


def test_refinement_that_diverged_leaves_the_inference() -> None:
    recipe = SgaBitsBack(lmbda=0.03, bbvi_steps=7, bbvi_learning_rate=0.02, steps=5).unrefined()
    assert recipe.method == "bits-back+bbvi"
    assert (recipe.lmbda, recipe.inference) == (0.03, (7, 0.02))


def test_steps_of_all_kinds_are_counted() -> None:
    assert SgaBitsBack(lmbda=1, steps=100, bbvi_steps=50).total_steps == 200  # the decode check infers again
    assert SgaBitsBack(lmbda=1, steps=100, bbvi_steps=50).refined_share == 0.5
    assert Sga(lmbda=1, steps=100).refined_share == 1
    assert [r.total_steps for r in (Amortized(lmbda=1), BitsBack(lmbda=1))] == [0, 0]


def test_every_field_is_described() -> None:
    assert all(field.description for name, field in FIELDS.items() if name != "method")
    assert set(FIELDS) == {name for kind in KINDS.values() for name in kind.model_fields}


@pytest.mark.parametrize(
    ("field", "methods", "text"),
    [
        ("steps", KINDS, "2000 (fast: 300, best: 2000)"),
        ("learning_rate", KINDS, "0.005, or 0.0001 for ste (fast: 0.05, best: 0.02)"),
        ("learning_rate", PACKED_METHODS, "0.005 (fast: 0.05, best: 0.02)"),
        ("seed", KINDS, "0"),
        ("tau0", KINDS, "0.5, or 0.2 for deterministic-annealing"),
        ("annealing_rate", KINDS, "2 / steps, or 8 / steps for deterministic-annealing"),
        ("plateau", PACKED_METHODS, "35 % of the steps"),
        ("bbvi_steps", KINDS, "2000 (fast: 100, best: 500)"),
    ],
)
def test_defaults_are_told_with_what_differs(field: str, methods: tuple[str, ...], text: str) -> None:
    assert default_of(field, methods) == text


def test_reading_what_methods_there_are_needs_nothing_heavy() -> None:
    heavy = "{'torch', 'numpy', 'pyarrow', 'ray', 'PIL'}"
    program = f"import sys, ncbatch.codec.methods; print({heavy} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
