"""What the command line says of itself, and how it behaves in a pipe."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_origin

import numpy as np
import pytest
import torch

from ncbatch.cli.app import COMMON, flags_of
from ncbatch.cli.main import main
from ncbatch.cli.messages import Messages
from ncbatch.cli.pack import files
from ncbatch.codec.bits_back.bbvi import BbviSettings
from ncbatch.codec.bits_back.pack_file import Entry, PackHeader, write_header, write_section
from ncbatch.codec.bitstream import Bitstream, serialise
from ncbatch.errors import NcbatchError
from ncbatch.exit_codes import ExitCode
from ncbatch.images.carried import Carried
from ncbatch.models.catalog import builtin_facts, builtin_file
from ncbatch.models.source import describe_model
from ncbatch.store import StoreOptions
from ncbatch.store.objects import read_object
from ncbatch.training.settings import LADDER
from tests.cli.parsed import parsed
from tests.end_to_end.command_line import ROOT, Said, environment, ncbatch, wait_for
from tests.end_to_end.conftest import Head
from tests.end_to_end.images import save_images
from tests.end_to_end.runs import output_store, rows
from tests.images.profiles import rgb_profile
from tests.servers import free_port

COMMANDS = (
    *("encode", "demo", "status", "watch", "query", "decode", "failures", "verify", "compact", "gc"),
    *("submit", "job", "train", "models", "convert", "report", "evaluate", "pack", "info"),
)


def test_help_teaches(said: Said) -> None:
    told = said("-h").expect(0).out
    assert "examples:" in told
    for code in ExitCode:
        assert f"\n  {code.value:<4} " in told
    for command in COMMANDS:
        assert f" {command} " in told, told
    assert "encode-request" not in told


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(said: Said, command: str) -> None:
    told = said(command, "--help").expect(0).out
    assert told.startswith(f"Usage: ncbatch {command} ")


def _help(said: Said, command: str) -> str:
    """The help without its frames and line breaks."""
    return " ".join(said(command, "--help").expect(0).out.replace("│", " ").split())


def test_help_of_packs_is_of_packs_and_presets_are_told(said: Said) -> None:
    told = _help(said, "pack")
    assert "failed row" not in told and "deterministic-annealing" not in told and "for ste" not in told
    assert "such an image is an error" in told and "of the steps" in told
    told = _help(said, "encode")
    assert "default: 2000 (fast: 300, best: 2000)" in told and "becomes a failed row" in told


def test_the_old_name_of_a_flag_still_works() -> None:
    for flag in ("--from", "--first"):
        assert parsed("decode", "x.ncbp", "out", flag, "2")["part"].start == 2
    for flag in ("--image", "--picture"):
        assert parsed("decode", "x.ncbp", "out", flag, "2")["part"].image == 2
    for flag in ("--no-images", "--no-pictures"):
        assert parsed("report", "out", flag)["page"].no_images


def test_every_argument_has_help_that_says_its_unit_and_its_default() -> None:
    wrong = []
    for name, flag in [("", flag) for flag in COMMON] + [(c, flag) for c in COMMANDS for flag in flags_of(c)]:
        told, what = flag.help, f"{name} {flag.name}"
        if len(flag.setting.text.split()) < 2 or (told.endswith(".") and not told.endswith("...")):
            wrong.append(f"{what}: {told!r} is no help")
        if flag.hint is bool or flag.positional or flag.required:
            continue
        if "default: " not in told:
            wrong.append(f"{what}: the help does not say what holds without it")
        if get_origin(flag.hint) is not Literal and not flag.setting.unit:
            wrong.append(f"{what}: the help has no unit")
    assert not wrong, "\n".join(wrong)


def test_flags_may_stand_without_their_value_where_that_means_something() -> None:
    assert parsed("status", "out")["watch"] is None
    assert parsed("status", "out", "--watch")["watch"] == parsed("status", "--watch=5", "out")["watch"] == 5
    assert parsed("status", "out", "--watch", "2", "--json")["watch"] == 2
    assert parsed("train", "in", "--out", "o", "--ladder")["models"].ladder == LADDER
    assert parsed("train", "in", "--out", "o", "--ladder", "0.1,0.2")["models"].ladder == (0.1, 0.2)
    for words in (("in", "out", "--retry-failed"), ("--retry-failed", "./in", "--quiet", "out")):
        found = parsed("encode", *words)
        assert (found["corpus"].removeprefix("./"), found["output"]) == ("in", "out")
        assert found["options"].retry is not None and found["options"].retry.classes is None
    found = parsed("encode", "--retry-failed", "deadline", "in", "out")
    assert found["options"].retry.classes == {"deadline"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "ncbatch: error: a COMMAND is required; see `ncbatch --help`"),
        (("encod",), "there is no 'encod' (did you mean encode?); the choices are encode, "),
        (("encode", "in"), "ncbatch encode: error: the following argument is required: OUTPUT; see"),
        (("encode", "in", "out", "--steps"), "argument --steps: expected a value"),
        (("encode", "in", "out", "--seed", "1", "--seed", "2"), "argument --seed: it is given twice"),
        (("encode", "in", "out", "--force=yes, please"), "argument --force: it takes no value"),
        (("encode", "--retry-failed=lost", "in", "out"), "'lost' is not an error class; the classes are "),
        (("status", "out", "--watch=often"), "argument --watch: 'often' is not a finite number"),
        (("status", "out", "--watch", "-1"), "argument --watch: '-1' is not a finite number"),
        (("decode", "a.ncbp", "out", "--from", "1", "--image", "2"), "not allowed with argument --from"),
        (("pack", "--out", "a.ncbp"), "the following argument is required: IMAGE"),
        (("train", "in", "--out", "x"), "give --lmbda WEIGHT to train one model, or --ladder"),
        (("--print-completion", "tcsh"), "there is no 'tcsh'; the choices are bash, zsh, fish"),
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
    for words in (("-q", "--debug", "status", "x"), ("status", "x", "-q", "--debug")):
        assert parsed(*words)["messages"] == Messages(quiet=True, debug=True)
    with pytest.raises(NcbatchError):
        main(["--debug", "status", str(tmp_path)])
    assert said("-V").expect(0).out == said("--version").expect(0).out
    for shell in ("bash", "zsh", "fish"):
        script = said("--print-completion", shell).expect(0).out
        assert "ncbatch" in script and "retry-failed" in script and "encode-request" not in script


def test_a_log_file_gets_what_standard_error_shows(said: Said, tmp_path: Path) -> None:
    file = tmp_path / "ncbatch.log"
    message = said("status", tmp_path, "--log-file", file).expect(1).message
    message = said("--log-file", file, "status", tmp_path).expect(1).message
    assert file.read_text().count(message) == 2
    refused = said("status", tmp_path, "--log-file", tmp_path / "no" / "file").expect(1).message
    assert "--log-file" in refused and "cannot be written" in refused


@pytest.mark.ray
def test_lines_for_programs_say_which_run_unit_and_attempt_they_are_about(head: Head, tmp_path: Path) -> None:
    save_images(tmp_path / "in", 1)
    (tmp_path / "in" / "text.png").write_text("not an image")
    file = tmp_path / "driver.log"
    done = ncbatch(
        "encode", tmp_path / "in", tmp_path / "out", "--method", "amortized", "--workers", "1",
        "--ray-address", head.address, "--log-format", "json", "--log-file", file,
    ).expect(2)  # fmt: skip
    run = f"file://{tmp_path}/out/"
    for text in (done.err, file.read_text()):
        lines = [json.loads(line) for line in text.splitlines() if not line.startswith("(")]  # Ray's own
        assert lines and all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
        assert any(line.get("run") == run for line in lines)
    (row,) = [row for row in rows(output_store(tmp_path / "out")).values() if row["status"] == "failed"]

    def of_the_attempt() -> list[dict[str, str]]:
        text = Path(row["worker_log"]).read_text()
        lines = (json.loads(line) for line in text.splitlines() if line.startswith('{"time"'))
        return [line for line in lines if line.get("attempt") == row["attempt"]]

    wait_for(of_the_attempt, "the worker's lines are in its log")
    assert all((line["run"], line["unit"]) == (run, row["unit"]) for line in of_the_attempt())
    assert any(line["message"].startswith("text.png failed: unreadable") for line in of_the_attempt())


def test_an_error_is_a_line_for_programs_too(said: Said, tmp_path: Path) -> None:
    told = said("status", tmp_path / "none", "--log-format", "json").expect(1).err
    (line,) = [json.loads(line) for line in told.splitlines()]
    assert line["level"] == "error" and "none" in line["message"] and "Traceback" not in told


def test_the_environment_gives_defaults(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCBATCH_WORKERS", "3")
    monkeypatch.setenv("NCBATCH_LMBDA", "0.5")  # what an image becomes is never decided from afar
    found = parsed("encode", "in", "out")
    assert found["options"].pool.workers == 3 and found["variant"] == {}
    assert parsed("encode", "in", "out", "--workers", "2")["options"].pool.workers == 2
    monkeypatch.setenv("NCBATCH_WORKERS", "zero")
    assert "NCBATCH_WORKERS: 'zero' is not a whole number" in said("encode", "in", "out").expect(1).message
    monkeypatch.setenv("NCBATCH_WORKERS", "")  # as if it were not there
    assert parsed("encode", "in", "out")["options"].pool.workers is None


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_cluster_that_does_not_answer_is_named(said: Said, tmp_path: Path, scheme: str) -> None:
    save_images(tmp_path / "in", 1)
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
    assert (models, top) == ("0", "0") and usage.startswith("Usage: ncbatch ")


def test_a_file_is_described_without_decoding_it(said: Said, tmp_path: Path) -> None:
    stream = Bitstream("sga", "ab" * 8, 40, 30, b"\0" * 12)
    (tmp_path / "a.ncb").write_bytes(serialise(stream))
    told = said("info", tmp_path / "a.ncb").expect(0).out
    assert "width: 40" in told and "method: sga" in told and "not a built-in one" in told
    found = json.loads(said("info", tmp_path / "a.ncb", "--json").expect(0).out)
    assert found["height"] == 30 and found["model_digest_prefix"] == "ab" * 8 and found["bytes"] > 12

    assert (found["kind"], found["whole"]) == ("bitstream", True) and "whole: yes" in told
    carried = Carried(icc=rgb_profile(1.8), xmp=b"<x/>" * 300, cicp=bytes([9, 16, 0, 1]))
    (tmp_path / "a.ncb").write_bytes(serialise(replace(stream, carried=carried)))
    told = said("info", tmp_path / "a.ncb").expect(0).out
    for line in ("format version: 3", "xmp bytes: 1,200", "icc profile: made by hand", "cicp: 9/16/0/1"):
        assert line in told, told

    pack = write_header(PackHeader("cd" * 8, BbviSettings(5, 0.01), 2, 0))
    first = Entry("bits-back", 64, 48, 0, 7)
    second = Entry("bits-back", 16, 8, 0, None)
    pack += write_section(first, np.zeros(3, np.uint32), None)
    whole = pack + write_section(second, np.zeros(2, np.uint32), first)
    (tmp_path / "a.ncbp").write_bytes(whole)
    found = json.loads(said("info", tmp_path / "a.ncbp", "--json").expect(0).out)
    assert found["inference"] == "5 steps at a rate of 0.01" and found["damage"] is None
    assert (found["kind"], found["whole"]) == ("pack", True)
    sizes = [(image["image"], image["width"], image["bits-back"]) for image in found["images"]]
    assert sizes == [(0, 16, "no"), (1, 64, "yes")]
    (tmp_path / "cut.ncbp").write_bytes(whole[:-5])
    told = said("info", tmp_path / "cut.ncbp").expect(0).out
    assert "1 of 2 images can be decoded" in told and "whole: no" in told
    (tmp_path / "long.ncbp").write_bytes(whole + b"more")
    found = json.loads(said("info", tmp_path / "long.ncbp", "--json").expect(0).out)
    assert found["whole"] is False and "bytes follow the last image" in found["damage"]

    name, digest = "base-0.010", builtin_facts()["base-0.010"].digest
    (tmp_path / "m.safetensors").write_bytes(builtin_file(name).read_bytes())
    told = said("info", tmp_path / "m.safetensors").expect(0).out
    assert f"digest: {digest}" in told and "model kind: base" in told
    (tmp_path / "x.txt").write_text("text")
    assert "is not an .ncb file" in said("info", tmp_path / "x.txt").expect(1).message
    assert "there is no file" in said("info", tmp_path / "no.ncb").expect(1).message


def test_models_in_folders(said: Said, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "holds no checkpoints" in said("models", tmp_path / "empty").expect(0).err
    trained = tmp_path / "ladder" / "base-0.010"
    trained.mkdir(parents=True)
    (trained / "model.safetensors").write_bytes(builtin_file("base-0.010").read_bytes())
    listed = json.loads(said("models", tmp_path / "ladder", "--json").expect(0).out)
    assert listed[-1]["name"].endswith("base-0.010/model.safetensors") and listed[-1]["n"] == 64
    # A training's folder names its model; that of a ladder has several.
    options = StoreOptions()
    for name in (str(trained), f"{trained}/"):
        assert describe_model(name, options).digest == builtin_facts()["base-0.010"].digest
    with pytest.raises(NcbatchError, match=r"is a folder; name one of its models: .*base-0\.010/model"):
        describe_model(str(tmp_path / "ladder"), options)


def test_a_conversion_overwrites_nothing_unasked(said: Said, tmp_path: Path) -> None:
    (tmp_path / "weights.pt").write_bytes(b"no torch file")
    (tmp_path / "model.safetensors").write_text("precious")
    words = ("convert", tmp_path / "weights.pt", tmp_path / "model.safetensors")
    assert "exists already" in said(*words).expect(1).message
    assert "is not a whole torch file" in said(*words, "--force").expect(1).message
    assert (tmp_path / "model.safetensors").read_text() == "precious"
    torch.save({"state_dict": {}}, tmp_path / "weights.pt")
    told = said("convert", tmp_path / "weights.pt", tmp_path / "new.safetensors").expect(1).message
    assert "--lmbda (CompressAI's qualities 1 to 8 have 0.0018, " in told


def test_a_folder_without_images_cannot_be_packed(said: Said, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    told = said("pack", tmp_path / "in", "--out", tmp_path / "a.ncbp").expect(1).message
    assert f"the folder {tmp_path / 'in'} holds no images" in told


def test_a_folder_stands_for_its_images_in_their_order(tmp_path: Path) -> None:
    for name in ("b.png", "a b.jpg", "notes.txt", "below/c.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(b"image")
    (tmp_path / "first.png").write_bytes(b"image")
    folder, first = str(tmp_path / "in"), str(tmp_path / "first.png")
    found = files([first, folder], StoreOptions())
    assert found == [first, f"{folder}/a b.jpg", f"{folder}/b.png", f"{folder}/below/c.png"]
    by_uri = files([f"file://{folder}/"], StoreOptions())
    assert by_uri[0] == f"file://{folder}/a%20b.jpg"
    assert [read_object(uri, StoreOptions()) for uri in by_uri] == [b"image"] * 3


def test_lambda_is_spelled_either_way() -> None:
    for flag in ("--lmbda", "--lambda"):
        assert parsed("encode", "in", "out", flag, "0.02")["variant"] == {"lmbda": 0.02}
        assert parsed("convert", "a", "b", flag, "0.02")["lmbda"] == 0.02
        assert parsed("train", "in", "--out", "o", flag, "0.02")["models"].lmbda == 0.02
