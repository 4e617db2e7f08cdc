"""The demonstration that the README begins with."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.end_to_end.command_line import ncbatch


@pytest.mark.ray
@pytest.mark.demo
def test_the_demo_ends_with_a_table(tmp_path: Path) -> None:
    done = ncbatch("demo", tmp_path / "demo").expect(0)
    assert "this machine should take about" in done.err
    assert "6 images ok, 0 failed" in done.out
    lines = done.out.splitlines()
    header = next(n for n, line in enumerate(lines) if line.startswith("image "))
    table = [line.split() for line in lines[header + 1 : header + 7]]
    assert table[0][0] == "astronaut.png"
    assert all(float(row[-1]) > 0 for row in table), "refinement lowers the loss of every photograph"
    assert f"ncbatch decode {tmp_path / 'demo' / 'run'}" in lines[-1]
