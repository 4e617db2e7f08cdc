"""The self-test passes on a right machine, and says what is wrong with a wrong one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ncbatch.cli import main
from ncbatch.codec.model.exact_hyper_synthesis import ExactHyperSynthesis
from ncbatch.codec.model.hyperprior import Model
from ncbatch.selftest import device as device_module
from ncbatch.selftest import golden, selftest
from ncbatch.selftest.golden import golden_files

CPU = torch.device("cpu")
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")),
]


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "_STEPS", 2)
    monkeypatch.setattr(selftest, "_measured", lambda report, *_: setattr(report, "steps_per_second", 7.5))


@pytest.mark.parametrize("device", DEVICES)
def test_a_right_machine_passes(device: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["selftest", "--device", device]) == 0
    said = capsys.readouterr().out.splitlines()
    facts = dict(line.split(": ", 1) for line in said[:-1])
    assert facts["device"] == device
    assert facts["torch"] == torch.__version__
    assert facts["golden files"] == str(len(list(golden_files()))) and int(facts["golden files"]) >= 23
    assert facts["steps per second"] == "7.5"
    assert said[-1] == "everything is as it has to be"


def _spoiled(method: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def sums(self: Any, index: int, x: Tensor) -> Tensor:
        result = method(self, index, x)
        return result.float().double() if index == 2 else result

    return sums


def test_a_machine_that_adds_up_in_float32_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ExactHyperSynthesis, "sums", _spoiled(ExactHyperSynthesis.sums))
    assert main.main(["selftest", "--device", "cpu"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("ncbatch: error: the self-test failed at golden files: ")


def test_programs_are_told_of_a_failure_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("CUDA error: no kernel image is available\nlong advice")

    monkeypatch.setattr(selftest, "encode", broken)
    assert main.main(["selftest", "--device", "cpu", "--json"]) == 1
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    problem = "encode and decode: RuntimeError: CUDA error: no kernel image is available"
    assert (found["ok"], found["problem"], found["steps_per_second"]) == (False, problem, None)
    assert captured.err.splitlines() == [f"ncbatch: error: the self-test failed at {problem}"]


@pytest.mark.parametrize(
    ("field", "change", "words"),
    [
        ("y_hat_sha256", lambda digest: "0" * 64, "decodes to other latents than everywhere else"),
        ("samples_sum", lambda total: total + 10**5, "but to other pixels"),
        ("width", lambda width: width + 1, "another size"),
    ],
)
def test_each_kind_of_difference_is_named(field: str, change: Callable[[Any], Any], words: str) -> None:
    file = next(file for file in golden_files() if file.name.endswith("refined.ncbp"))
    model = Model(file.model)
    assert file.problem(model) is None
    file.images[2][field] = change(file.images[2][field])
    problem = file.problem(model)
    assert problem is not None and words in problem and problem.startswith(f"image 2 of {file.name}")


def test_a_file_of_a_model_that_left_the_package_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(golden.catalog, "builtin_models", lambda: {"base-0.010": 0.01})
    assert {file.name for file in golden_files() if file.name.startswith("base-0.0")} == {
        "base-0.010-130x97-amortized.ncb",
        "base-0.010-192x128-sga.ncb",
    }


@pytest.mark.parametrize("batch", [1, 3])
def test_the_loop_is_measured(batch: int) -> None:
    model = Model(golden.tiny_model("base"))
    pixels = selftest.picture(70, 50)
    assert pixels.shape == (50, 70, 3) and np.unique(pixels).size > 50
    assert selftest.steps_per_second(model, pixels, batch, seconds=0.01) > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_a_wrong_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["selftest", "--device", "cuda"]) == 1
    assert "torch finds no GPU here" in capsys.readouterr().err


def test_cublas_is_asked_for_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers without a GPU, where it is installed."""
    if torch.version.cuda is None:
        pytest.skip("torch is built without CUDA")
    version = device_module.cublas_version()
    assert version is not None and re.fullmatch(r"\d+\.\d+\.\d+", version)
    monkeypatch.setattr(device_module, "_loaded", lambda name: None)
    assert device_module.cublas_version() is None


def test_what_changes_the_libraries_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_EMULATE_DOUBLE_PRECISION", "1")
    assert "CUBLAS_EMULATE_DOUBLE_PRECISION=1" in device_module.describe(CPU)["environment"]
