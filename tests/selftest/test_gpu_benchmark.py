"""The one command that measures a GPU runs to its end here, on small models of a CPU."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu


def figures(found: Any) -> list[float]:
    """All numbers of a JSON document."""
    if isinstance(found, dict):
        found = list(found.values())
    if isinstance(found, list):
        return [figure for part in found for figure in figures(part)]
    return [found] if isinstance(found, float) else []


@pytest.mark.slow
def test_everything_is_measured_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "gpu.json"
    monkeypatch.setattr(sys, "argv", ["gpu", "--out", str(out), "--device", "cpu", "--quick"])
    assert gpu.main() == 0
    found = json.loads(out.read_text())
    assert all(map(math.isfinite, figures(found)))
    assert '"problem": "' not in out.read_text(), "nothing was left out"
    assert [(row["batch"], row["loop"]) for row in found["steps"]] == [
        (batch, loop) for loop in ("as shipped", "g_s in float32") for batch in (1, 2)
    ]
    one, two = found["steps"][:2]
    assert two["flops_per_step"] == 2 * one["flops_per_step"] > 10**6
    assert 0 < one["share_of_peak"] < 1
    assert {row["preset"] for row in found["presets"]} == {"paper", "fast", "best"}
    assert found["corpus"]["images"] == 2 and 0 <= found["corpus"]["idle_share"] < 1
    assert found["bits_back"]["decode_seconds_per_image"] > 0
    assert found["training"][0]["steps_per_second"] > 0
    assert "| 16 | 24 | 2 | as shipped |" in capsys.readouterr().out


def test_missing_packages_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda m: None if m == "pytorch_msssim" else real(m))
    monkeypatch.setattr(sys, "argv", ["gpu", "--out", "gpu.json"])
    with pytest.raises(SystemExit):
        gpu.main()
    assert "these packages are missing: pip install pytorch-msssim" in capsys.readouterr().err
