"""What a run does at this moment, from its driver's last word and its lease; and how it is told."""

from __future__ import annotations

import json
import os
import platform
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from ncbatch.cli.main import main
from ncbatch.driver.forecast import Forecast
from ncbatch.driver.health import Place, Quarantine
from ncbatch.driver.lease import Lease, LeaseFile, _boot_id
from ncbatch.driver.progress import Progress, Snapshot, announce, end_early, read_status, write_status
from ncbatch.driver.standing import standing
from ncbatch.logs import lines_of
from ncbatch.models.loading import keep_model
from ncbatch.worker.unit import run_unit
from tests.workbench import ATTEMPTS, CHECKPOINT, Workbench, make_image, make_variant

NOW = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
DEAD = 2**22 + 1  # above the largest process id that Linux gives


def said(state: Any, driver: str = "me", seconds_ago: float = 5.0, reason: str = "") -> Snapshot:
    at = NOW - timedelta(seconds=seconds_ago)
    return Snapshot(state=state, driver=driver, updated_at=at, reason=reason)


def held(driver: str = "me", pid: int | None = None, host: str | None = None) -> LeaseFile:
    return LeaseFile(
        driver=driver, host=host or platform.node(), boot=_boot_id(), pid=pid or os.getpid(), renewals=1
    )


@pytest.mark.parametrize(
    ("snapshot", "lease", "state", "words"),
    [
        (None, None, "planned", "no driver is at work"),
        (None, held(), "starting", "starts workers"),
        (said("planning"), held(), "planning", "nothing is encoded yet"),
        (said("planning", seconds_ago=600), held(), "planning", "starts workers"),
        (said("running"), held(), "running", ""),
        (said("finishing"), held(), "finishing", "finishes what is in flight"),
        (said("finishing"), held("another"), "starting", "has been started again"),
        (said("finished"), None, "finished", "every image has a row"),
        (said("stopped"), None, "stopped", "run the same command again"),
        (said("stopped", reason="drained by ann"), None, "stopped", "drained by ann; run the same command"),
        (said("finishing", reason="drained by ann"), held(), "finishing", "ends then: drained by ann"),
        (said("interrupted"), None, "interrupted", "SIGTERM"),
        (said("running"), None, "lost", "its driver was killed"),
        (said("running"), held(pid=DEAD), "lost", "its driver was killed"),
        (said("planning"), held(pid=DEAD), "lost", "its driver was killed"),
        (said("running", seconds_ago=180), held(host="elsewhere"), "lost", "said nothing for 180 s"),
        (said("running", seconds_ago=30), held(host="elsewhere"), "running", ""),
    ],
)
def test_what_a_run_does(snapshot: Snapshot | None, lease: LeaseFile | None, state: str, words: str) -> None:
    told = standing(snapshot, lease, NOW)
    assert told.state == state
    assert words in told.explanation
    assert bool(told.explanation) == (state != "running")


def _status(bench: Workbench, capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, str]:
    capsys.readouterr()
    code = main(["status", bench.output.uri, *flags])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def test_a_run_that_is_being_planned_is_no_error(
    local: Workbench, capsys: pytest.CaptureFixture[str]
) -> None:
    lease = Lease(local.output)
    lease.take(force=False)
    announce(local.output, "planning", lease.driver)
    code, told = _status(local, capsys)
    assert (code, told.splitlines()[0].startswith("planning: ")) == (0, True), told
    code, told = _status(local, capsys, "--json")
    assert (code, json.loads(told)["state"]) == (0, "planning")
    lease.release()
    local.output.delete("status.json")
    code, told = _status(local, capsys)
    assert code == 1 and "holds no run" in told


def test_several_variants_have_a_row_each(local: Workbench, capsys: pytest.CaptureFixture[str]) -> None:
    local.add({f"{n}.png": make_image(seed=n) for n in range(3)})
    spec = local.spec(make_variant(name="one"), make_variant(name="two", alpha="white"))
    units = local.open(spec).units
    run_unit(local.workspace(spec), units[0], ATTEMPTS[0], {})
    code, told = _status(local, capsys)
    assert code == 0
    assert "3 images under 2 variants: 6 encodings in 2 units" in told
    assert "3 encodings ok, 0 failed" in told
    run_unit(local.workspace(spec), units[1], ATTEMPTS[0], {})
    content = json.loads(_status(local, capsys, "--json")[1])
    assert (content["state"], content["images"], content["ok"]) == ("planned", 6, 6)
    assert content["mean_bpp"] is None
    assert {name: part["ok"] for name, part in content["variants"].items()} == {"one": 3, "two": 3}
    assert content["variants"]["one"]["mean_bpp"] > 0
    table = _status(local, capsys)[1].splitlines()
    assert [line.split()[:3] for line in table if line.startswith(("one ", "two "))] == [
        ["one", "3", "0"],
        ["two", "3", "0"],
    ]


def test_what_is_kept_from_work_is_named(local: Workbench, capsys: pytest.CaptureFixture[str]) -> None:
    local.add({"a.png": make_image()})
    local.open(local.spec())
    lease = Lease(local.output)
    lease.take(force=False)
    progress = Progress({"v": 1}, Forecast({}))
    progress.state = "running"
    sick = Place("0123456789abcdef", "cuda:3", "gpu-node-7", 4711)
    progress.quarantined = [Quarantine(sick, 4, "uncorrectable ECC error")]
    write_status(local.output, progress.snapshot(lease.driver))
    _, told = _status(local, capsys)
    name = "cuda:3 of gpu-node-7 (node 01234567)"
    assert f"kept from work: {name}, after 4 failures (last: uncorrectable ECC error)" in told
    _, told = _status(local, capsys, "--json")
    (kept,) = json.loads(told)["snapshot"]["quarantined"]
    assert (kept["node"], kept["device"], kept["failures"]) == (sick.node, "cuda:3", 4)
    write_status(local.output, progress.snapshot(lease.driver).model_copy(update={"state": "finished"}))
    assert "kept from work" not in _status(local, capsys)[1], "that was then"


def test_what_was_planned_since_the_run_was_finished_is_told(
    local: Workbench, capsys: pytest.CaptureFixture[str]
) -> None:
    local.add({"a.png": make_image()})
    spec = local.spec()
    local.encode(spec)
    write_status(local.output, Snapshot(state="finished", updated_at=datetime.now(timezone.utc)))
    assert "finished: every image has a row" in _status(local, capsys)[1]
    local.add({"b.png": make_image()})
    local.open(spec)
    told = "planned: 1 image has been planned since the run was finished; the same encode command encodes"
    assert told in _status(local, capsys)[1]
    assert json.loads(_status(local, capsys, "--json")[1])["state"] == "planned"


def test_after_a_repair_status_and_verify_name_the_command_that_encodes(
    local: Workbench, capsys: pytest.CaptureFixture[str]
) -> None:
    local.add({f"{n}.png": make_image(seed=n) for n in range(4)})
    spec = local.spec()
    local.encode(spec)
    keep_model(local.output, CHECKPOINT)
    write_status(local.output, Snapshot(state="finished", updated_at=datetime.now(timezone.utc)))

    def verify(*flags: str) -> tuple[int, str]:
        capsys.readouterr()
        return main(["verify", local.output.uri, *flags]), capsys.readouterr().out

    for n in range(2):
        local.output.delete(str(local.rows()[f"{n}.png"].bitstream_key))
    code, told = verify()
    assert (code, told.splitlines()[-1].endswith("--repair` plans them again")) == (2, True), told
    command = verify("--repair")[1].splitlines()[-1]
    assert command.startswith("ncbatch encode ")
    code, told = verify()
    assert code == 2 and "--repair" not in told
    assert told.splitlines()[-2:] == ["2 damaged rows planned again; this command encodes them:", command]
    assert json.loads(verify("--json")[1])["planned_again"] == 2
    code, told = _status(local, capsys)
    assert "2 pending" in told and "every image has a row" not in told
    assert "planned: 2 images have been planned since the run was finished; the same encode command" in told
    assert json.loads(_status(local, capsys, "--json")[1])["state"] == "planned"

    local.output.delete(str(local.rows()["2.png"].bitstream_key))
    told = verify()[1]
    assert "--repair` plans the other 1 again" in told and told.splitlines()[-1] == command
    for unit in local.open(spec).pending:
        run_unit(local.workspace(spec), unit, ATTEMPTS[1], {})
    assert "finished: every image has a row" in _status(local, capsys)[1]


def test_failed_rows_are_told_with_what_can_be_done(
    local: Workbench, capsys: pytest.CaptureFixture[str]
) -> None:
    local.add({"a.png": make_image(), "bad.png": b"text"})
    spec = local.spec()
    local.encode(spec)
    told = _status(local, capsys)[1]
    assert f"`ncbatch failures {local.output.uri}` says what can be done" in told and "--retry-failed" in told
    capsys.readouterr()
    assert main(["failures", local.output.uri]) == 0
    told, row = capsys.readouterr().out, local.rows()["bad.png"]
    assert (
        f"(on {row.host}, attempt {row.attempt})" in told
        and f"log: {lines_of(row.attempt, row.worker_log)}\n" in told
    )
    assert main(["failures", local.output.uri, "--json"]) == 0
    ((example,),) = (found["examples"] for found in json.loads(capsys.readouterr().out)["classes"])
    assert (example["host"], example["attempt"]) == (row.host, row.attempt)
    assert example["log"] == lines_of(row.attempt, row.worker_log)
    local.add({"bad.png": make_image(seed=1)})
    for unit in local.open(spec).pending:
        run_unit(local.workspace(spec), unit, ATTEMPTS[1], {})
    assert "ncbatch failures" not in _status(local, capsys)[1]


def test_watching_ends_with_the_run(local: Workbench, capsys: pytest.CaptureFixture[str]) -> None:
    local.add({"a.png": make_image()})
    spec = local.spec()
    unit = local.unit(spec)
    lease = Lease(local.output)
    lease.take(force=False)
    running = Snapshot(
        state="running", driver=lease.driver, updated_at=datetime.now(timezone.utc), fraction=0.25, workers=1
    )
    write_status(local.output, running)

    def finish(seconds: float) -> None:
        assert seconds == 0.5
        run_unit(local.workspace(spec), unit, ATTEMPTS[0], {})
        write_status(local.output, running.model_copy(update={"state": "finished"}))
        lease.release()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ncbatch.cli.status.time.sleep", finish)
        code, told = _status(local, capsys, "--watch", "0.5")
    assert code == 0
    assert "running, 25 %, 1 worker" in told
    assert "finished: every image has a row" in told
    assert read_status(local.output) is not None


def test_the_cost_is_that_of_all_sessions_and_of_idle_workers_too(
    local: Workbench, capsys: pytest.CaptureFixture[str]
) -> None:
    local.add({"a.png": make_image()})
    local.open(local.spec())
    lease = Lease(local.output)
    lease.take(force=False)
    now = datetime.now(timezone.utc)
    write_status(
        local.output, Snapshot(state="stopped", driver="before", updated_at=now, worker_seconds=5400)
    )
    announce(local.output, "starting", lease.driver)
    said = read_status(local.output)
    assert said is not None and said.worker_seconds == 5400
    running = {
        "state": "running", "worker_seconds": 7200.0, "eta_seconds": 900.0, "workers": 4, "pending": 9,
    }  # fmt: skip
    write_status(local.output, said.model_copy(update=running))
    told = _status(local, capsys, "--price-per-hour", "2.5")[1]
    assert "cost so far: 5.00, 7.50 when all is done, at 2.5 per device hour" in told
    assert json.loads(_status(local, capsys, "--price-per-hour", "2.5", "--json")[1])["cost"] == 5.0
    assert "cost so far" not in _status(local, capsys)[1]


def test_a_driver_that_ends_early_says_so_or_leaves_nothing(local: Workbench) -> None:
    announce(local.output, "planning", "me")
    end_early(local.output, "another", "stopped")
    assert read_status(local.output) is not None
    end_early(local.output, "me", "stopped")
    assert read_status(local.output) is None, "no run was planned"
    local.add({"a.png": make_image()})
    local.open(local.spec())
    announce(local.output, "starting", "me")
    end_early(local.output, "me", "interrupted")
    told = read_status(local.output)
    assert told is not None and told.state == "interrupted"
    end_early(local.output, "me", "stopped")
    assert read_status(local.output) == told, "what a driver said at its end stands"
