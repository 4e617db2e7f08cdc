"""Bad images and bad workers: what they may cost, and when a run gives up."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.command_line import Running, ncbatch, running, wait_for
from tests.end_to_end.conftest import Head
from tests.end_to_end.images import save_image, save_images
from tests.end_to_end.runs import assert_verified, count, output_store, rows, statuses

pytestmark = pytest.mark.ray


def test_images_that_kill_or_hang_fail_alone(head: Head, tmp_path: Path) -> None:
    keys = save_images(tmp_path / "in", 6)
    save_image(tmp_path / "in" / "hang.png", 50, fault="hang")
    save_image(tmp_path / "in" / "kill.png", 51, fault="kill")
    words = ("--method", "amortized", "--workers", "2", "--min-deadline", "15")
    done = ncbatch("encode", tmp_path / "in", tmp_path / "out", *words, "--ray-address", head.address).expect(
        2
    )
    out = output_store(tmp_path / "out")
    assert statuses(out) == {
        **dict.fromkeys(keys, "ok"),
        "hang.png": "deadline",
        "kill.png": "process_killed",
    }
    assert "6 images ok, 2 failed" in done.out
    assert "failed: kill.png: process_killed: " in done.err
    assert_verified(out)


@pytest.mark.slow  # its unit waits, so that others show whether the device is to blame
def test_a_worker_whose_device_breaks_is_replaced_and_no_image_fails(head: Head, tmp_path: Path) -> None:
    keys = save_images(tmp_path / "in", 3)
    save_image(tmp_path / "in" / "break.png", 50, fault="break")
    words = ("--method", "amortized", "--workers", "1", "--ray-address", head.address)
    done = ncbatch("encode", tmp_path / "in", tmp_path / "out", *words).expect(0)
    out = output_store(tmp_path / "out")
    assert statuses(out) == dict.fromkeys([*keys, "break.png"], "ok")
    assert "the device of a worker (process" in done.err and "an illegal memory access" in done.err
    assert_verified(out)


@pytest.fixture
def dying_workers(head: Head) -> Iterator[None]:
    flag = head.flags / "die-at-start"
    flag.touch()
    yield
    flag.unlink()


@pytest.mark.usefixtures("dying_workers")
def test_workers_that_do_not_start_stop_the_run(head: Head, tmp_path: Path) -> None:
    save_images(tmp_path / "in", 2)
    words = ("--method", "amortized", "--workers", "1", "--ray-address", head.address)
    done = ncbatch("encode", tmp_path / "in", tmp_path / "out", *words).expect(3)
    assert "workers died while starting" in done.err.splitlines()[-1]
    assert output_store(tmp_path / "out").head("lease.json") is None


def test_too_many_failures_stop_the_run_until_it_is_told_otherwise(head: Head, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for n in range(420):
        (tmp_path / "in" / f"{n:03d}.jpg").write_bytes(b"")
    words = ("encode", tmp_path / "in", tmp_path / "out", "--method", "amortized", "--workers", "1")
    command = (*words, "--ray-address", head.address)
    done = ncbatch(*command).expect(3)
    assert "images failed (empty: " in done.err.splitlines()[-1]
    assert 200 <= len(rows(output_store(tmp_path / "out"))) < 420
    done = ncbatch(*command, "--max-failed", "1").expect(2)
    assert "0 images ok, 420 failed" in done.out
    assert "and 415 more" in done.err
    assert len(rows(output_store(tmp_path / "out"))) == 420


def test_a_killed_worker_and_a_killed_driver_lose_nothing(head: Head, tmp_path: Path) -> None:
    """First a worker in the middle of a unit, then the driver; the same command finishes the run."""
    keys = save_images(tmp_path / "in", 16)
    out = output_store(tmp_path / "out")
    command = ("encode", tmp_path / "in", tmp_path / "out", "--steps", "400", "--workers", "2")
    with running(*command) as first:
        wait_for(lambda: first.busy_workers() and count(out, "bitstreams/"), "a worker is in a unit")
        _kill(first, first.busy_workers()[0])
        wait_for(lambda: "lost a worker" in first.err, "the driver notices")
        wait_for(lambda: _uncommitted_bitstreams(tmp_path / "out"), "a unit is half done")
        first.process.kill()
        first.process.wait(10)
        assert count(out, "units/") < 8
        # Nobody ends them any more: busy workers end by themselves within seconds, what else Ray started
        # within a minute.
        wait_for(lambda: not first.busy_workers(), "the workers are gone")
    assert out.head("lease.json") is not None
    done = ncbatch(*command, "--ray-address", head.address).expect(0)
    assert "waiting to see whether it is alive" not in done.err, (
        "a dead process of this machine holds nothing"
    )
    finished = rows(out)
    assert set(finished) == set(keys) and {row["status"] for row in finished.values()} == {"ok"}
    assert any(row["adopted"] for row in finished.values())
    assert_verified(out)
    assert count(out, "wip/") == 0


@pytest.mark.slow
def test_a_worker_that_gets_a_sigterm_gives_its_unit_back(tmp_path: Path) -> None:
    """As when its machine is about to be taken away."""
    keys = save_images(tmp_path / "in", 6)
    out = output_store(tmp_path / "out")
    with running("encode", tmp_path / "in", tmp_path / "out", "--steps", "1000", "--workers", "2") as run:
        wait_for(lambda: len(run.busy_workers()) == 2, "two workers are in their units")
        first = run.busy_workers()[0]
        _kill(run, first, signal.SIGTERM)
        wait_for(lambda: first not in run.descendants(), "it has given its unit back and is ended")
        done = run.wait().expect(0)
    assert "lost a worker" not in done.err
    assert set(rows(out)) == set(keys) and set(statuses(out).values()) == {"ok"}
    assert_verified(out)


def _kill(command: Running, pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    assert pid in command.descendants()
    os.kill(pid, number)


def _uncommitted_bitstreams(output: Path) -> bool:
    out = output_store(output)
    units = count(out, "units/")
    return 1 <= units < 6 and count(out, "bitstreams/") > 2 * units


@pytest.mark.slow
def test_a_driver_whose_raylet_is_killed_says_so_and_how_to_go_on(tmp_path: Path) -> None:
    """Ray would let it wait for ever, or end it in its own words."""
    keys = save_images(tmp_path / "in", 6)
    command = ("encode", tmp_path / "in", tmp_path / "out", "--steps", "300", "--workers", "1")
    words = (*command, "--unit-seconds", "0.1")
    with running(*words) as run:
        wait_for(lambda: count(output_store(tmp_path / "out"), "units/"), "a worker is at it")
        for pid, line in run.descendants().items():
            if line.split(" ")[0].endswith("/raylet"):
                os.kill(pid, signal.SIGKILL)
        done = run.wait().expect(3)
    assert "Ray has died on this machine" in done.err
    assert done.err.strip().endswith("run the same command again to continue")
    ncbatch(*words).expect(0)
    assert statuses(output_store(tmp_path / "out")) == dict.fromkeys(keys, "ok")
