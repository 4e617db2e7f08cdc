"""What the command line says of itself, and how it behaves in a pipe."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ncbatch.cli import build_parser, main
from ncbatch.errors import NcbatchError
from ncbatch.exit_codes import ExitCode
from tests.end_to_end.command_line import ROOT, Said, environment
from tests.end_to_end.pictures import save_pictures
from tests.servers import free_port

COMMANDS = (
    *("encode", "demo", "status", "query", "decode", "verify", "compact"),
    *("submit", "job", "train", "models", "convert", "report", "evaluate"),
)


def test_help_teaches(said: Said) -> None:
    told = said("-h").expect(0).out
    assert "examples:" in told
    for code in ExitCode:
        assert f"\n  {code.value:<4} " in told
    for command in COMMANDS:
        assert f"\n    {command} " in told, told


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(said: Said, command: str) -> None:
    told = said(command, "--help").expect(0).out
    assert told.startswith(f"usage: ncbatch {command}")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "COMMAND"),
        (("encod",), "there is no 'encod' (did you mean encode?); the choices are encode, "),
        (("encode", "in"), "the following arguments are required: output"),
        (
            ("encode", "in", "out", "--step", "3"),
            "unknown flag --step (did you mean --steps?); see `ncbatch encode -",
        ),
        (("encode", "--metod", "sga", "in", "out"), "unknown flag --metod (did you mean --method?)"),
        (("decode", "--modle", "x"), "ncbatch decode: error: unknown flag --modle (did you mean --model?)"),
        (("encode", "in", "out", "more"), "unexpected argument 'more'"),
        (("--debg", "encode", "in", "out"), "unknown flag --debg (did you mean --debug?)"),
        (("encode", "in", "out", "--method", "sgaa"), "there is no 'sgaa' (did you mean sga?)"),
        (
            ("encode", "in", "out", "--lmbda", "much"),
            "argument --lmbda: 'much' is not a finite number greater than 0",
        ),
        (("job", "restart", "x"), "there is no 'restart'"),
    ],
)
def test_wrong_words_are_named(said: Said, words: tuple[str, ...], message: str) -> None:
    assert message in said(*words).expect(1).message


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--workers", "0"), "--workers: '0' is not a whole number of at least 1"),
        (("--batch-size", "-1"), "--batch-size: '-1' is not"),
        (("--unit-seconds", "0"), "--unit-seconds: '0' is not a finite number greater than 0"),
        (("--lmbda", "-1"), "--lmbda"),
        (("--method", "amortized", "--steps", "5"), "steps"),
        (("--model", "no-such-model"), "there is no model 'no-such-model'"),
        (("--name", "../x"), "--name: must be up to 64 letters"),
        (("--manifest", "no.csv"), "no.csv"),
    ],
)
def test_wrong_values_are_named(said: Said, tmp_path: Path, flags: tuple[str, ...], message: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"")
    assert message in said("encode", tmp_path / "in", tmp_path / "out", *flags).expect(1).message


def test_flags_about_messages_stand_before_and_after_a_command(said: Said, tmp_path: Path) -> None:
    parser = build_parser()
    for words in (("-q", "--debug", "status", "x"), ("status", "x", "-q", "--debug")):
        args = parser.parse_args(words)
        assert args.quiet and args.debug and not args.verbose
    with pytest.raises(NcbatchError):
        main(["--debug", "status", str(tmp_path)])
    assert said("-V").expect(0).out == said("--version").expect(0).out
    assert "_ncbatch" in said("--print-completion", "bash").expect(0).out


def test_a_log_file_gets_what_standard_error_shows(said: Said, tmp_path: Path) -> None:
    file = tmp_path / "ncbatch.log"
    message = said("status", tmp_path, "--log-file", file).expect(1).message
    message = said("--log-file", file, "status", tmp_path).expect(1).message
    assert file.read_text().count(message) == 2
    refused = said("status", tmp_path, "--log-file", tmp_path / "no" / "file").expect(1).message
    assert "--log-file" in refused and "cannot be written" in refused


def test_the_environment_gives_defaults(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCBATCH_WORKERS", "3")
    monkeypatch.setenv("NCBATCH_LMBDA", "0.5")  # what an image becomes is never decided from afar
    args = build_parser().parse_args(["encode", "in", "out"])
    assert args.workers == 3 and args.lmbda is None
    assert build_parser().parse_args(["encode", "in", "out", "--workers", "2"]).workers == 2
    monkeypatch.setenv("NCBATCH_WORKERS", "zero")
    assert "NCBATCH_WORKERS: 'zero' is not a whole number" in said("encode", "in", "out").expect(1).message


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_cluster_that_does_not_answer_is_named(said: Said, tmp_path: Path, scheme: str) -> None:
    save_pictures(tmp_path / "in", 1)
    address = f"{scheme}127.0.0.1:{free_port()}"
    done = said("encode", tmp_path / "in", tmp_path / "out", "--ray-address", address).expect(1)
    assert f"no Ray cluster answers at {address}" in done.err.splitlines()[-1]
    assert not (tmp_path / "out" / "lease.json").exists()


def test_what_cannot_be_submitted_is_said_before_anything_is_sent(
    said: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    (tmp_path / "in").mkdir()
    refused = said("submit", tmp_path / "in", tmp_path / "out", "--dashboard", "http://10.0.0.7:8265")
    assert "plain http to another machine without a token" in refused.expect(1).message
    missing = said("submit", tmp_path / "no", tmp_path / "out")
    assert "does not exist" in missing.expect(1).message
    assert not (tmp_path / "no").exists()


def test_a_reader_who_has_seen_enough_is_no_error() -> None:
    program = f"{sys.executable} -m ncbatch"
    command = (
        f"{program} models | true; echo ${{PIPESTATUS[0]}}; {program} -h | head -1; echo ${{PIPESTATUS[0]}}"
    )
    done = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=900
    )
    assert done.stderr == ""
    models, usage, top = done.stdout.splitlines()
    assert (models, top) == ("0", "0") and usage.startswith("usage: ncbatch ")
