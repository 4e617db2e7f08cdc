"""What a command imports before it answers: names and paths are checked before torch or Ray are loaded.

No times are measured here; what takes them is counted.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ncbatch.worker.unit import run_unit
from tests.end_to_end.command_line import ROOT, environment
from tests.workbench import ATTEMPTS, Workbench, make_image

TORCH_AND_RAY = ("torch", "ray", "compressai", "constriction")
TABLES = ("pyarrow", "duckdb", "pandas", "numpy")
OTHERS = ("scipy", "matplotlib", "skimage", "PIL", "boto3", "botocore", "jinja2")
HEAVY = (*TORCH_AND_RAY, *TABLES, *OTHERS)

_PROGRAM = """
import sys
from ncbatch.cli.main import main
try:
    code = main(sys.argv[2:])
except SystemExit as error:
    code = error.code
print("\\nloaded:", *(name for name in sys.argv[1].split(",") if name in sys.modules))
sys.exit(code)
"""


def _loaded(*words: str | Path) -> tuple[set[str], int, str]:
    """The heavy packages that a command has loaded when it ends, its exit code, and what it said."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, ",".join(HEAVY), *map(str, words)],
        cwd=ROOT,
        env=environment(PATH="/nowhere"),  # no program of any codec
        capture_output=True,
        text=True,
        timeout=240,
    )
    said, _, names = done.stdout.rpartition("loaded:")
    return set(names.split()), done.returncode, said + done.stderr


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--help",), 0, "examples:"),
        (("--version",), 0, "ncbatch"),
        (("encode", "--help"), 0, "Usage: ncbatch encode"),
        (("encode", "in", "out", "--step", "3"), 1, "--step"),
        (("encode", "in", "out", "--method", "nope"), 1, "nope"),
        (("encode", "in", "out", "--preset", "quick"), 1, "quick"),
        (("encode", "in", "out", "--model", "nope"), 1, "there is no model 'nope'"),
        (("encode", "in", "out", "--method", "bpg", "--quality", "30"), 1, "needs the program bpgenc"),
        (("encode", "in", "out", "--method", "bpg", "--quality", "30", "--dry-run"), 1, "bpgenc"),
        (("encode", "in", "out", "--spec", "no.yaml"), 1, "no.yaml"),
        (("encode", "nowhere", "out"), 1, "does not exist"),
        (("encode", "in", "in/a.png"), 1, "is a file; name a folder"),
        (("encode", "in/a.png", "out"), 1, "in/a.png is a file; name the folder that holds the images"),
        (("submit", "in/a.png", "out"), 1, "in/a.png is a file; name the folder that holds the images"),
        (("encode", "in", "out", "--bogus"), 1, "unknown flag --bogus; see"),
        (("decode", "in/a.png", "out"), 1, "is not a run's output, nor a .ncb or .ncbp file"),
        (("verify", "in/a.png"), 1, "is a file, not a run's output"),
        (("info", "in"), 1, "in is a folder, not a file"),
        (("evaluate", "nowhere", "out"), 1, "does not exist"),
        (("evaluate", "in", "out", "--methods", "nope"), 1, "nope"),
        (("submit", "nowhere", "out"), 1, "does not exist"),
        (("job", "status", "x", "--dashboard", "nope"), 1, "--dashboard nope"),
        (("status", "nowhere"), 1, "does not exist"),
        (("status", "in"), 1, "holds no run"),
        (("query", "in", "select 1"), 1, "holds no run"),
        (("decode", "in", "out"), 1, "holds no run"),
        (("decode", "nowhere.ncb", "out"), 1, "nowhere.ncb"),
        (("verify", "in"), 1, "holds no run"),
        (("compact", "in"), 1, "holds no run"),
        (("report", "in", "--out", "out"), 1, "holds no run"),
        (("pack", "nowhere.png", "--out", "x.ncbp"), 1, "nowhere.png"),
        (("convert", "nowhere.pt", "x.safetensors"), 1, "nowhere.pt"),
        (("train", "nowhere", "--lmbda", "0.01", "--out", "x"), 1, "does not exist"),
        (("models",), 0, "base-0.010"),
        (("selftest", "--device", "tpu"), 1, "tpu"),
    ],
)
def test_what_needs_nothing_heavy_loads_nothing_heavy(
    tmp_path: Path, words: tuple[str, ...], code: int, message: str
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"")
    places = {"in", "out", "nowhere", "nowhere.ncb", "nowhere.png", "nowhere.pt", "in/a.png", "no.yaml"}
    loaded, got, said = _loaded(*(tmp_path / word if word in places else word for word in words))
    assert got == code, said
    assert message in said
    assert not loaded


def test_models_of_a_folder_are_checked_without_torch(tmp_path: Path) -> None:
    models = ROOT / "ncbatch" / "models"
    whole = (models / "base-0.010.safetensors").read_bytes()
    (tmp_path / "fine.safetensors").write_bytes(whole)
    (tmp_path / "torn.safetensors").write_bytes(whole[:-1])
    loaded, code, said = _loaded("models", tmp_path)
    assert code == 0
    assert "fine.safetensors" in said
    assert "torn.safetensors is not an ncbatch checkpoint" in said
    assert not loaded & {*TORCH_AND_RAY, *OTHERS}


def test_reading_a_run_needs_neither_torch_nor_ray(local: Workbench) -> None:
    local.add({f"{n}.png": make_image(seed=n) for n in range(3)})
    spec = local.spec()
    for unit in local.open(spec, pixels_per_unit=1).units[:2]:
        run_unit(local.workspace(spec), unit, ATTEMPTS[0], {})
    place = local.output.uri
    loaded, code, said = _loaded("status", place)
    assert (code, "1 pending" in said) == (0, True), said
    assert loaded <= {"pyarrow", "numpy"}
    loaded, code, said = _loaded("query", place, "select count(*) as n from metrics")
    assert code == 0, said
    assert loaded <= {"pyarrow", "numpy", "duckdb"}
    assert _loaded("compact", place)[0] <= {"pyarrow", "numpy"}
