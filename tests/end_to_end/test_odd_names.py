"""Names that the locale cannot tell, and an output inside its corpus: through a driver and its workers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.end_to_end.command_line import environment, ncbatch
from tests.end_to_end.images import save_image
from tests.end_to_end.runs import output_store, statuses

pytestmark = pytest.mark.ray

NAMES = {"é.png": "é.png", "日本.png": "日本.png", os.fsdecode(b"caf\xe9.png"): "caf\\xe9.png"}


def test_names_and_outputs_that_are_in_the_way(tmp_path: Path) -> None:
    """Every repetition of a classical codec's run takes what it took at first, and ends well."""
    corpus, out = tmp_path / "in", tmp_path / "in" / "out"
    for seed, name in enumerate(NAMES):
        save_image(corpus / name, seed)
    # Where a name is not ASCII, neither Python nor a library knows what it is.
    env = environment(LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0")
    command = ("encode", corpus, out, "--method", "jpeg", "--quality", "50", "--workers", "1")
    for _ in range(2):
        done = ncbatch(*command, env=env).expect(0)
        assert "3 images ok, 0 failed" in done.out
        assert statuses(output_store(out)) == dict.fromkeys(NAMES.values(), "ok")
    assert "objects that belong to runs, in out/" in done.err
