"""Ctrl-C, twice Ctrl-C, SIGTERM, and what is seen on a terminal meanwhile."""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path

import pytest

from tests.end_to_end.command_line import running, wait_for
from tests.end_to_end.conftest import Head
from tests.end_to_end.images import save_images
from tests.end_to_end.runs import count, output_store, rows
from tests.end_to_end.terminal import Terminal

pytestmark = pytest.mark.ray


def test_a_run_is_interrupted_in_every_way_and_goes_on(head: Head, tmp_path: Path) -> None:
    save_images(tmp_path / "in", 16)
    out = output_store(tmp_path / "out")
    command = ("encode", tmp_path / "in", tmp_path / "out", "--steps", "300", "--workers", "2")

    with running(*command) as run:
        wait_for(lambda: count(out, "units/") and len(run.busy_workers()) == 2, "two workers are busy")
        run.signal_group(signal.SIGINT)
        done = run.wait()
    assert done.code == 130, str(done)
    assert "Traceback" not in done.err
    assert "finishing what is in flight; press Ctrl-C again to stop at once" in done.err
    assert "lost a worker" not in done.err, "a terminal's Ctrl-C must not reach the workers"
    assert "run the same command again" in done.err.splitlines()[-1]
    after_first = len(rows(out))
    assert 4 <= after_first < 16
    assert count(out, "bitstreams/") == after_first, "what was in flight is finished and committed"
    assert out.head("lease.json") is None

    again = (*command, "--ray-address", head.address)  # where workers start sooner
    with running(*again) as run:
        wait_for(lambda: f" {after_first}/16 images, " in run.err, "resumed work counts as done")
        run.process.send_signal(signal.SIGTERM)
        started = time.monotonic()
        done = run.wait()
        assert time.monotonic() - started < 10
    assert done.code == 143, str(done)
    assert "Traceback" not in done.err
    assert out.head("lease.json") is None

    with Terminal(*again) as terminal:
        live = r"\d+/16 images, \d+ % \|.*2 workers"
        wait_for(lambda: re.search(live, terminal.text()), "the live line shows")
        terminal.press_ctrl_c()
        wait_for(lambda: "finishing what is in flight" in terminal.text(), "the hint shows")
        terminal.press_ctrl_c()
        assert terminal.wait(20) == 130, terminal.text()
    assert "Traceback" not in terminal.text()
    assert "run the same command again" in " ".join(terminal.text().split())
    assert out.head("lease.json") is None
    assert len(rows(out)) >= after_first


@pytest.mark.parametrize(
    ("number", "seconds", "code", "message"),
    [
        (signal.SIGTERM, 0.0, 143, "ncbatch: ended by SIGTERM; "),
        (signal.SIGTERM, 1.5, 143, "ncbatch: ended by SIGTERM; "),
        (signal.SIGINT, 1.0, 130, "ncbatch: interrupted; "),
    ],
)
def test_a_run_is_ended_while_ray_starts(
    tmp_path: Path, number: signal.Signals, seconds: float, code: int, message: str
) -> None:
    save_images(tmp_path / "in", 2)
    words = ("--method", "amortized", "--workers", "1")
    with running("encode", tmp_path / "in", tmp_path / "out", *words) as run:
        wait_for(lambda: "starting Ray on this machine" in run.err, "Ray is being started")
        time.sleep(seconds)  # somewhere in ray.init(), which has handlers of its own
        run.process.send_signal(number)
        done = run.wait()
    assert done.code == code, str(done)
    assert done.err.splitlines()[-1].startswith(message)
    assert output_store(tmp_path / "out").head("lease.json") is None
