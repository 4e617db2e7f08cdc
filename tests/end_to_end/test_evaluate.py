"""`ncbatch evaluate` and `ncbatch report` as a user runs them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.end_to_end.command_line import Said, ncbatch
from tests.end_to_end.conftest import Head
from tests.end_to_end.images import save_images

pytestmark = pytest.mark.ray


def test_methods_and_codecs_are_compared(head: Head, said: Said, tmp_path: Path) -> None:
    save_images(tmp_path / "in", 2)
    learned = (
        "evaluate",
        tmp_path / "in",
        tmp_path / "out",
        "--methods",
        "amortized,map",
        "--lmbdas",
        "0.01,0.02",
    )
    words = (*learned, "--steps", "20", "--trace", "10", "--codecs", "jpeg,hevc", "--qualities", "30,70")
    done = ncbatch(*words, "--workers", "1", "--ray-address", head.address).expect(0)
    assert done.out.strip().endswith("/out/report/index.html")
    report = tmp_path / "out" / "report"
    page = (report / "index.html").read_text()
    for heading in ("R-D curves", "BD-rates", "What refinement gains", "Images at matched rates"):
        assert heading in page, heading
    table = (report / "tables" / "variants.csv").read_text().splitlines()
    names = {line.split(",")[0] for line in table[1:]}
    assert names == {
        *("amortized-0.01", "amortized-0.02", "map-0.01", "map-0.02"),
        *("jpeg-30", "jpeg-70", "hevc-30", "hevc-70"),
    }
    verified = said("verify", tmp_path / "out").expect(0).out
    assert "16 images verified" in verified


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--manifest", "nowhere.csv"), "nowhere.csv"),
        (("--methods", "magic"), "--methods: there is no 'magic'; the choices are amortized, sga"),
        (("--codecs", "jpg"), "--codecs: there is no 'jpg' (did you mean jpeg?); the choices are jpeg, webp"),
        (("--lmbdas", "0.01,much"), "--lmbdas: 'much' is not a finite number greater than 0"),
        (("--codecs", "jpeg", "--qualities", "a"), "--qualities: 'a' is not a whole number"),
        (("--lmbdas", "0.01,0"), "--lmbdas: '0' is not a finite number greater than 0"),
    ],
)
def test_wrong_words_are_named(said: Said, tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    (tmp_path / "in").mkdir()
    told = said("evaluate", tmp_path / "in", tmp_path / "out", *words).expect(1)
    assert message in told.err
