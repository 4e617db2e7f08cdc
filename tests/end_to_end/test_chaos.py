"""A small form of `benchmarks.chaos`."""

from __future__ import annotations

import pytest

from benchmarks.chaos import chaos, is_well, parse

pytestmark = [pytest.mark.ray, pytest.mark.s3, pytest.mark.slow]


def test_whatever_breaks_every_image_has_its_row_and_none_is_blamed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    words = ["--units", "30", "--faults", "10", "--seed", "2", "--unit-seconds", "2"]
    found = chaos(parse(words))
    assert is_well(found), found
    assert found["faults"] == 10 and len(found["faults_by_kind"]) == 10, "every kind once"
    assert found["quarantines"] > 0, "three of the nodes are no good"
