"""Lines for programs, by themselves; the commands that write them are in tests/end_to_end."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ncbatch.logs import WORKER_LOGS, AboutLines, JsonLines, about, in_use, lines_of, own_log


def line(message: str, *words: object, **extra: Any) -> dict[str, Any]:
    record = logging.getLogger("ncbatch.x").makeRecord(
        "ncbatch.x", logging.WARNING, __file__, 1, message, words, extra.pop("exc_info", None), extra=extra
    )
    found: dict[str, Any] = json.loads(JsonLines().format(record))
    return found


def test_a_line_is_one_object_whatever_the_message_holds() -> None:
    found = line('%s\nand "%s"', "Grün", 5)
    assert found["message"] == 'Grün\nand "5"' and found["level"] == "warning"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", found["time"])
    assert set(found) == {"time", "level", "logger", "message"}


def test_lines_are_about_what_the_process_is_at_or_what_they_say_themselves() -> None:
    with about(run="s3://b/run/"):
        with about(unit="u", attempt="a-1"):
            assert line("x")["attempt"] == "a-1"
            assert line("x", unit="other")["unit"] == "other" and line("x")["run"] == "s3://b/run/"
        assert "unit" not in line("x") and line("x")["run"] == "s3://b/run/"
    assert "run" not in line("x")


def test_a_workers_lines_are_found_by_the_attempt_that_a_row_names(tmp_path: Path) -> None:
    record = logging.makeLogRecord({"name": "ncbatch.x", "msg": "out of memory", "exc_text": "Traceback"})
    lines = [AboutLines("%(name)s: %(message)s").format(record)]
    for attempt in ("3f9a01c2-1", "3f9a01c2-17"):
        with about(run="s3://b/run/", unit="u", attempt=attempt):
            lines += [formatter.format(record) for formatter in (AboutLines("%(message)s"), JsonLines())]
    assert lines[0] == "ncbatch.x: out of memory\nTraceback"
    assert lines[1] == "out of memory (attempt 3f9a01c2-1)\nTraceback"
    (tmp_path / "worker.err").write_text("\n".join(lines))
    command = lines_of("3f9a01c2-1").replace(WORKER_LOGS, str(tmp_path / "worker.err"))
    found = subprocess.run(
        command, shell=True, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert len(found) == 2 and all("3f9a01c2-17" not in line for line in found)


def test_a_process_knows_the_file_that_its_messages_go_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(path: Path) -> str | None:
        with path.open("wb") as file:
            monkeypatch.setattr("ncbatch.logs._STANDARD_ERROR", file.fileno())
            return own_log.__wrapped__()

    path = tmp_path / "worker 1.err"
    assert found(path) == str(path)
    assert lines_of("3f9a01c2-1", str(path)) == f"grep -wF 3f9a01c2-1 '{path}'"
    assert found(Path("/dev/null")) is None
    assert found(tmp_path / os.fsdecode(b"no \xff text")) is None
    with path.open("wb") as file:
        path.unlink()
        monkeypatch.setattr("ncbatch.logs._STANDARD_ERROR", file.fileno())
        assert own_log.__wrapped__() is None


def test_a_traceback_stays_within_its_line() -> None:
    try:
        raise ValueError("no")
    except ValueError:
        found = line("it failed", exc_info=sys.exc_info())
    assert found["traceback"].endswith("ValueError: no")


def test_the_format_of_this_process_is_known_to_those_it_starts() -> None:
    assert in_use() == "text"
    handler = logging.NullHandler()
    handler.setFormatter(JsonLines())
    logging.getLogger().addHandler(handler)  # taken away again after each test
    assert in_use() == "json"
