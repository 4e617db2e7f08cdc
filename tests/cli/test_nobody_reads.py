"""Commands whose output goes to a pipe that nobody reads any more."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ncbatch.cli import process
from ncbatch.cli.console import out
from ncbatch.cli.main import main
from ncbatch.models.loading import keep_model
from ncbatch.worker.unit import run_unit
from tests.workbench import ATTEMPTS, CHECKPOINT, Workbench, make_image


@contextmanager
def pipe_without_reader() -> Iterator[None]:
    """Standard output, in the test itself: what a fixture puts there, pytest replaces."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    root.handlers.clear()
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stream, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        yield
    root.handlers[:], root.level = handlers, level


@pytest.mark.parametrize(
    "words",
    [
        ("status", "OUT"),
        ("status", "OUT", "--json"),
        ("query", "OUT", "select * from metrics"),
        ("query", "OUT", "select * from metrics", "--format", "csv"),
        ("query", "OUT", "select * from metrics", "--format", "json"),
        ("verify", "OUT"),
        ("decode", "OUT", "DECODED"),
        ("compact", "OUT"),
        ("failures", "OUT"),
        ("info", "FILE"),
        ("models",),
        ("--help",),
        ("encode", "--help"),
    ],
    ids=" ".join,
)
def test_a_reader_that_has_gone_is_no_error(
    local: Workbench, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    _finished_run(local)
    (file,) = local.keys("bitstreams/")
    places = {"OUT": local.output.uri, "FILE": local.output.uri + file, "DECODED": str(tmp_path / "decoded")}
    with pipe_without_reader():
        assert main([places.get(word, word) for word in words]) == 0
    assert capsys.readouterr().err == ""


def test_what_is_wrong_is_in_the_exit_code_whoever_reads(local: Workbench) -> None:
    _finished_run(local)
    (key,) = local.keys("bitstreams/")
    local.output.delete(key)
    for flags in ([], ["--json"], ["--repair"]):
        with pipe_without_reader():
            assert main(["verify", local.output.uri, *flags]) == 2


def test_what_nobody_read_is_not_written_later(capsys: pytest.CaptureFixture[str]) -> None:
    with pipe_without_reader():
        assert main(["models"]) == 0
    out.print("the next result")
    assert capsys.readouterr().out == "the next result\n"


def _a_pipe_breaks() -> int:
    raise BrokenPipeError


def test_standard_output_that_nobody_reads_ends_a_command() -> None:
    with pipe_without_reader():
        assert process.run(_a_pipe_breaks, own=False) == 0


@pytest.mark.usefixtures("capfd")
def test_another_pipe_that_breaks_is_no_success() -> None:
    with pytest.raises(BrokenPipeError):
        process.run(_a_pipe_breaks, own=False)


def _finished_run(bench: Workbench) -> None:
    bench.add({"a.png": make_image()})
    keep_model(bench.output, CHECKPOINT)
    spec = bench.spec()
    run_unit(bench.workspace(spec), bench.unit(spec), ATTEMPTS[0], {})
