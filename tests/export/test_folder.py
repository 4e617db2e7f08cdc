"""The folder of an exported decoder: its graphs compute what ncbatch computes, and its manifest is true."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ncbatch.cli.main import main
from ncbatch.codec.model.checkpoint import Checkpoint, export
from ncbatch.codec.model.exact_hyper_synthesis import MAX_Z_SYMBOL, UNIT, ExactHyperSynthesis
from ncbatch.codec.model.hyperprior import Model
from ncbatch.export.hyper_synthesis_graph import hyper_synthesis_graph
from ncbatch.export.synthesis_graph import synthesis_graph
from ncbatch.models import zoo
from ncbatch.selftest import golden
from tests.training.test_network import network

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

CPU = torch.device("cpu")


def session(graph: bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def tapered() -> Checkpoint:
    """A model whose transforms have several widths."""
    return export(network("base", widths=(4, 10, 14)).network.state_dict(), lmbda=0.01)


def exact_cases() -> list[torch.Tensor]:
    """Hyper-latents of several sizes: ordinary ones, and as far out as symbols go."""
    random = torch.Generator().manual_seed(1)
    shapes = [(1, 1, 1), (2, 3, 5)]
    return [
        torch.randint(-limit, limit + 1, (batch, 64, h, w), generator=random, dtype=torch.int32)
        for batch, h, w in shapes
        for limit in (4 * UNIT, MAX_Z_SYMBOL * UNIT)
    ]


@pytest.mark.parametrize("name", ["built-in", "tapered", "bits-back"])
def test_the_exact_graph_gives_the_same_integers(name: str, tapered: Checkpoint) -> None:
    checkpoint = {
        "built-in": lambda: zoo.load_builtin("base-0.010"),
        "tapered": lambda: tapered,
        "bits-back": lambda: golden.tiny_model("bits-back"),
    }[name]()
    graph, exact = (
        session(hyper_synthesis_graph(checkpoint)),
        ExactHyperSynthesis(checkpoint.integer_layers(), CPU),
    )
    varied = 0
    for z in exact_cases():
        z = z[:, : checkpoint.info.n].contiguous()
        mu, sigma = graph.run(["mu", "sigma"], {"z": z.numpy()})
        ours = exact(z)
        assert mu.dtype == sigma.dtype == np.int32
        assert np.array_equal(mu, ours[0].numpy()) and np.array_equal(sigma, ours[1].numpy())
        varied += len(np.unique(sigma))
    assert varied > 100


def test_the_synthesis_graph_takes_any_size_and_any_widths(tapered: Checkpoint) -> None:
    graph, model = session(synthesis_graph(tapered)), Model(tapered)
    random = torch.Generator().manual_seed(2)
    for batch, height, width in ((1, 4, 4), (2, 4, 12)):
        y_hat = 3 * torch.randn(batch, tapered.info.m, height, width, generator=random)
        (image,) = graph.run(["image"], {"y_hat": y_hat.numpy()})
        ours = model.synthesise(y_hat).numpy()
        assert image.shape == ours.shape == (batch, 3, 16 * height, 16 * width)
        assert np.allclose(image, ours, rtol=0, atol=1e-5 * max(1.0, np.abs(ours).max()))


def test_old_runtimes_can_read_the_graphs(folders: dict[str, Path]) -> None:
    for name in ("synthesis.onnx", "hyper_synthesis.onnx"):
        model = onnx.load(folders["base"] / name)
        assert model.ir_version == 7 and [(o.domain, o.version) for o in model.opset_import] == [("", 13)]
        properties = {p.key: p.value for p in model.metadata_props}
        assert properties["model_digest"] == golden.tiny_model("base").digest


def test_the_manifest_describes_the_files(folders: dict[str, Path]) -> None:
    folder, checkpoint = folders["base"], golden.tiny_model("base")
    manifest = json.loads((folder / "manifest.json").read_text())
    described = {"name": "base.safetensors", "digest": checkpoint.digest, "n": 8, "m": 12, "kind": "base"}
    assert manifest["model"].items() >= described.items()
    assert manifest["model"]["shifts"] == list(checkpoint.info.shifts)
    assert manifest["bitstreams"] == {"versions": [1, 2, 3], "model_digest": checkpoint.digest[:16]}
    there = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert {*manifest["files"], "manifest.json"} == there
    for name, said in manifest["files"].items():
        data = (folder / name).read_bytes()
        assert (said["bytes"], said["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())


def test_a_decoder_is_not_replaced_unasked(
    folders: dict[str, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    source = str(Path(str(golden.TINY)) / "base.safetensors")
    before = {path: path.read_bytes() for path in folders["base"].iterdir() if path.is_file()}
    assert main(["export-decoder", source, "--out", str(folders["base"])]) == 1
    assert "holds a decoder already; choose another folder, or add --overwrite" in capsys.readouterr().err
    assert main(["export-decoder", source, "--out", str(folders["base"]), "--overwrite"]) == 0
    assert {path: path.read_bytes() for path in before} == before  # the same model is the same bytes
    assert main(["export-decoder", "base-9", "--out", str(tmp_path / "new")]) == 1
    assert "base-9" in capsys.readouterr().err


def test_without_onnx_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "onnx.helper", None)
    monkeypatch.setitem(sys.modules, "onnx", None)
    source = str(Path(str(golden.TINY)) / "base.safetensors")
    assert main(["export-decoder", source, "--out", str(tmp_path / "out")]) == 1
    assert "pip install 'ncbatch[onnx]'" in capsys.readouterr().err
