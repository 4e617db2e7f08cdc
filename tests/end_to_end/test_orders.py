"""A run that is paused, resumed and drained from another process, and one whose time is up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.end_to_end.command_line import Said, ncbatch, running, wait_for
from tests.end_to_end.conftest import Head
from tests.end_to_end.images import save_images
from tests.end_to_end.runs import assert_verified, count, output_store, rows

pytestmark = pytest.mark.ray


def test_a_run_obeys_from_its_folder(head: Head, said: Said, tmp_path: Path) -> None:
    keys = save_images(tmp_path / "in", 30)
    out, place = output_store(tmp_path / "out"), tmp_path / "out"
    command = (
        "encode", tmp_path / "in", place, "--steps", "200", "--workers", "1", "--unit-seconds", "0.1",
        "--ray-address", head.address,
    )  # fmt: skip

    def state() -> str:
        data = out.get("status.json") if out.head("status.json") else b'{"state": ""}'
        return str(json.loads(data)["state"])

    with running(*command) as run:
        wait_for(lambda: count(out, "units/"), "something is committed")
        assert "waits for `ncbatch resume`" in said("pause", place).expect(0).out
        wait_for(lambda: state() == "paused", "the driver says that it pauses")
        committed = count(out, "units/")
        assert 0 < committed < len(keys)
        assert "an operator has paused it" in said("status", place).expect(0).out
        said("resume", place).expect(0)
        wait_for(lambda: count(out, "units/") > committed, "it goes on")
        said("drain", place).expect(0)
        done = run.wait()
    assert done.code == 3 and "Traceback" not in done.err, str(done)
    last = done.err.splitlines()[-1]
    assert "stopped: drained by " in last and "run the same command again" in last
    assert len(rows(out)) < len(keys) and out.head("lease.json") is None
    # Prometheus, which may look at any later time, will not take the driver for a lost one.
    wait_for(lambda: _ended(head, out.uri) == ["stopped"], "Ray exports that the driver has ended")

    after = len(rows(out))
    stopped = ncbatch(*command, "--max-hours", "0.000001").expect(3)
    assert "hours are over (--max-hours)" in stopped.err.splitlines()[-1]
    assert "nothing to drain" in said("drain", place).expect(0).out
    assert "the next one waits" in said("pause", place).expect(0).out
    assert "will not wait" in said("resume", place).expect(0).out
    ncbatch(*command).expect(0)
    assert set(rows(out)) == set(keys) and after < len(keys)
    assert_verified(out)


def _ended(head: Head, run: str) -> list[str]:
    """How the run's drivers ended, by what Ray exports for Prometheus."""
    lines = [
        line for line in head.metrics().splitlines() if line.startswith("ray_ncbatch_drivers_ended_total{")
    ]
    return [line.split('state="')[1].split('"')[0] for line in lines if f'run="{run}"' in line]


def test_an_order_needs_a_run(said: Said, tmp_path: Path) -> None:
    for name in ("pause", "resume", "drain"):
        assert said(name, tmp_path).expect(1).message.startswith("ncbatch: error: ")
    assert (
        said("encode", tmp_path, tmp_path / "out", "--max-cost", "5")
        .expect(1)
        .message.endswith("--max-cost needs --price-per-hour, of which the cost is made")
    )
