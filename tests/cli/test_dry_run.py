"""What `--dry-run` says, of a run that is yet to be planned and of one that stands."""

from __future__ import annotations

import os

import pytest

from ncbatch.cli.main import main
from ncbatch.plan.request import make_spec
from ncbatch.plan.spec import RunSpec
from ncbatch.store import LocalStore, StoreOptions
from ncbatch.worker.unit import run_unit
from tests.workbench import ATTEMPTS, Workbench, make_image

JPEG = ("--method", "jpeg", "--quality", "60")


def _told(bench: Workbench, capsys: pytest.CaptureFixture[str], *flags: str, code: int = 0) -> list[str]:
    capsys.readouterr()
    words = ("encode", bench.corpus.uri, bench.output.uri, *JPEG, "--dry-run", *flags)
    assert main([*words, "--workers", "1"]) == code
    captured = capsys.readouterr()
    return (captured.out if code == 0 else captured.err).splitlines()


def _spec(bench: Workbench) -> RunSpec:
    return make_spec(bench.corpus.uri, StoreOptions(), [{"method": "jpeg", "quality": 60}])


def test_a_new_run_is_estimated(local: Workbench, capsys: pytest.CaptureFixture[str]) -> None:
    local.add({f"{n}.png": make_image(seed=n) for n in range(3)})
    told = _told(local, capsys, "--price-per-hour", "2")
    assert told[0].split()[:2] == ["variant", "images"] and told[1].split()[:2] == ["jpeg-60", "3"]
    assert told[2].startswith("in all ") and told[3].startswith("cost: ")
    assert list(local.output.list()) == []


def test_of_a_run_that_stands_it_says_what_is_left(
    local: Workbench, capsys: pytest.CaptureFixture[str]
) -> None:
    local.add({**{f"{n}.png": make_image(seed=n) for n in range(5)}, "bad.png": b"text"})
    spec = _spec(local)
    units = local.open(spec, pixels_per_unit=1).units
    for unit in units[1:]:
        run_unit(local.workspace(spec), unit, ATTEMPTS[0], {})
    assert isinstance(local.corpus, LocalStore)
    os.utime(local.corpus.root / "1.png", (1, 1))
    local.add({"2.png": make_image(80, 64, seed=7), "new.png": make_image(seed=8)})
    before = {info.key: info.etag for info in local.output.list()}
    told = _told(local, capsys)
    assert told[:3] == [
        "4 of 7 encodings done; left to do: 1 pending, 1 new, 1 changed",
        "failed rows that stay unless --retry-failed is given: 1 unreadable",
        "inputs whose etag changed and whose bytes did not: 1",
    ]
    assert told[4].split()[:2] == ["jpeg-60", "3"]
    told = _told(local, capsys, "--retry-failed")
    assert told[0].endswith("left to do: 1 pending, 1 new, 1 changed, 1 failed and tried again")
    assert next(line for line in told if line.startswith("jpeg")).split()[1] == "4"
    assert {info.key: info.etag for info in local.output.list()} == before


def test_nothing_is_left_and_other_settings_are_refused(
    local: Workbench, capsys: pytest.CaptureFixture[str]
) -> None:
    local.add({"0.png": make_image()})
    spec = _spec(local)
    for unit in local.open(spec).units:
        run_unit(local.workspace(spec), unit, ATTEMPTS[0], {})
    assert _told(local, capsys) == ["1 of 1 encoding done; left to do: nothing"]
    (line,) = _told(local, capsys, "--max-pixels", "5", code=1)
    assert "holds a run with other settings" in line
