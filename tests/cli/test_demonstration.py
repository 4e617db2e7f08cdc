"""What the demonstration chooses on which machine. No times are measured here: speeds are given."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from ncbatch.cli.demo import choice
from ncbatch.cli.demonstration import (
    BUDGET_SECONDS,
    CANDIDATES,
    IMAGES,
    Choice,
    Speed,
    choose,
    copy_images,
    fields_of,
)
from ncbatch.cli.flags import from_environment
from ncbatch.driver.options import EncodeOptions, PoolConfig
from ncbatch.errors import UsageError
from tests.workbench import Workbench, make_variant, sga

AVX2 = Speed(base=6e-6, step=8.5e-7)
"""Of a core of an EPYC 7xx3, by the 4.5 minutes that 200 steps of the whole images took on two of them."""


def test_two_avx2_cores_refine_smaller_copies() -> None:
    choice = choose(AVX2, workers=2)
    assert (choice.scale, choice.steps) == (2, 200)
    assert choice.seconds <= BUDGET_SECONDS
    assert choice.folder == "images-half"
    assert "200 steps of the preset fast instead of 300, on copies of 1/2 of the" in choice.reason
    assert f"about {choice.seconds:.0f} s" in choice.reason


def test_a_fast_machine_does_the_whole_thing() -> None:
    choice = choose(Speed(base=1e-7, step=1e-8), workers=1)
    assert (choice.scale, choice.steps, choice.folder) == (1, 300, "images")
    assert choice.reason.endswith("for 300 steps of the preset fast")


def test_a_very_slow_machine_does_the_least_and_is_told_how_long_it_takes() -> None:
    choice = choose(Speed(base=1e-4, step=1e-4), workers=1)
    assert (choice.scale, choice.steps) == CANDIDATES[-1]
    assert choice.seconds > BUDGET_SECONDS
    assert f"about {choice.seconds:.0f} s" in choice.reason


def test_a_faster_machine_never_does_less() -> None:
    work = [
        sum(w // c.scale * (h // c.scale) for _, w, h in IMAGES) * c.steps
        for c in (choose(Speed(AVX2.base / f, AVX2.step / f), 2) for f in (0.1, 0.3, 0.5, 1, 2, 4, 8, 16))
    ]
    assert work == sorted(work)
    assert choose(AVX2, 1).seconds <= BUDGET_SECONDS


def test_more_workers_than_images_do_not_help() -> None:
    longest = 1000 * 872 * (AVX2.base + 300 * AVX2.step)
    assert Choice(1, 300, longest).seconds > BUDGET_SECONDS
    assert choose(AVX2, workers=100).scale > 1, "the longest image decides"


def test_the_environment_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCBATCH_WORKERS", "2")
    monkeypatch.setenv("NCBATCH_REGION", "")
    assert from_environment(EncodeOptions) == EncodeOptions(pool=PoolConfig(workers=2))
    monkeypatch.setenv("NCBATCH_WORKERS", "two")
    with pytest.raises(UsageError, match="NCBATCH_WORKERS: 'two' is not a whole number"):
        from_environment(EncodeOptions)


def test_a_demonstration_goes_on_with_what_it_began(local: Workbench, tmp_path: Path) -> None:
    """Whatever the machine could do by now: nothing is measured again."""
    copy_images(tmp_path / "images-third", 3)
    spec = local.spec(make_variant(sga(steps=150), name="fast"))
    spec = spec.model_copy(update={"corpus": (tmp_path / "images-third").as_uri() + "/"})
    local.output = type(local.output)(tmp_path / "run", create=True)  # type: ignore[call-arg]
    local.corpus = type(local.corpus)(tmp_path / "images-third")  # type: ignore[call-arg]
    local.open(spec)
    corpus = str(tmp_path / "images-third")
    assert choice(tmp_path, str(tmp_path / "run")) == (corpus, {"preset": "fast", "steps": 150})


def test_an_older_demonstration_goes_on(local: Workbench) -> None:
    spec = local.spec(make_variant(sga(steps=200), name="sga"))
    assert fields_of(spec) == {"method": "sga", "steps": 200}


@pytest.mark.parametrize("scale", [1, 2])
def test_copies_have_their_sizes_and_are_made_once(tmp_path: Path, scale: int) -> None:
    copy_images(tmp_path, scale)
    sizes = {}
    for path in tmp_path.iterdir():
        with Image.open(path) as image:
            sizes[path.stem] = image.size
    assert sizes == {Path(name).stem: (w // scale, h // scale) for name, w, h in IMAGES}
    first = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    copy_images(tmp_path, scale)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == first
