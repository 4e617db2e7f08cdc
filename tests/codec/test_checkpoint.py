import pickle
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ncbatch.codec.errors import ModelError
from ncbatch.codec.model import checkpoint as module
from ncbatch.codec.model.checkpoint import Checkpoint, export, parse
from ncbatch.models import catalog, zoo


def test_round_trip_keeps_tensors_and_digest(checkpoint: Checkpoint) -> None:
    again = parse(checkpoint.to_bytes(), "x")
    assert again.digest == checkpoint.digest and again.info == checkpoint.info
    assert again.tensors.keys() == checkpoint.tensors.keys()
    assert all(torch.equal(again.tensors[k], v) for k, v in checkpoint.tensors.items())


def test_export_of_the_same_weights_is_the_same_checkpoint(checkpoint: Checkpoint) -> None:
    assert export(checkpoint.state_dict(), lmbda=0.01).digest == checkpoint.digest


def test_models_of_one_width_keep_the_digest_from_before_there_were_widths(checkpoint: Checkpoint) -> None:
    assert "widths" not in checkpoint.info.model_dump()
    assert checkpoint.digest == catalog.builtin_facts()["base-0.010"].digest
    tapered = checkpoint.info.model_copy(update={"widths": (48, 96, 160)})
    assert module.ModelInfo.model_validate(tapered.model_dump(mode="json")) == tapered
    assert module._digest(tapered, checkpoint.tensors) != checkpoint.digest


def test_digest_covers_every_tensor_and_the_metadata(checkpoint: Checkpoint) -> None:
    for name in ("g_a.0.weight", "exact.1.bias", "z.frequencies", "z.median"):
        tensors = dict(checkpoint.tensors)
        tensors[name] = tensors[name].clone()
        tensors[name].view(-1)[0] += 1
        assert module._digest(checkpoint.info, tensors) != checkpoint.digest
    other = checkpoint.info.model_copy(update={"lmbda": 0.02})
    assert module._digest(other, checkpoint.tensors) != checkpoint.digest


@pytest.mark.parametrize(
    "missing", ["g_a.0.weight", "g_s.1.gamma", "exact.2.weight", "z.median", "prior.matrices.0"]
)
def test_missing_tensors_are_named(checkpoint: Checkpoint, missing: str) -> None:
    tensors = {k: v for k, v in checkpoint.tensors.items() if k != missing}
    data = module.Checkpoint(checkpoint.info, tensors, "").to_bytes()
    with pytest.raises(ModelError, match=missing.replace("exact.2.", "2.")):
        parse(data, "x")


def test_a_flipped_bit_is_noticed(checkpoint: Checkpoint) -> None:
    data = bytearray(checkpoint.to_bytes())
    data[-1000] ^= 1
    with pytest.raises(ModelError, match="x is damaged"):
        parse(bytes(data), "x")


def test_wrong_shapes_are_named(checkpoint: Checkpoint) -> None:
    tensors = dict(checkpoint.tensors)
    tensors["g_s.0.weight"] = tensors["g_s.0.weight"][:, :8].contiguous()
    with pytest.raises(ModelError, match=r"g_s\.0\.weight"):
        parse(module.Checkpoint(checkpoint.info, tensors, "").to_bytes(), "x")


def test_tables_that_do_not_add_up_are_refused(checkpoint: Checkpoint) -> None:
    tensors = dict(checkpoint.tensors)
    tensors["z.frequencies"] = tensors["z.frequencies"][:-1].contiguous()
    with pytest.raises(ModelError, match="add up"):
        parse(module.Checkpoint(checkpoint.info, tensors, "").to_bytes(), "x")


def test_cut_short_at_many_lengths_is_one_error(checkpoint: Checkpoint) -> None:
    data = checkpoint.to_bytes()
    for length in [0, 1, 7, 8, 9, 100, 1000, len(data) // 2, len(data) - 1]:
        with pytest.raises(ModelError, match="x is not an ncbatch checkpoint"):
            parse(data[:length], "x")


def test_newer_or_foreign_metadata_says_so(checkpoint: Checkpoint) -> None:
    data = checkpoint.to_bytes()
    with pytest.raises(ModelError, match="format"):
        parse(data.replace(b'\\"format\\":1', b'\\"format\\":9'), "x")
    from safetensors.torch import save

    with pytest.raises(ModelError, match="not an ncbatch checkpoint"):
        parse(save({"a": torch.zeros(1)}), "x")


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (pytest.fail, ("code of a pickle was run",))

    for data in (pickle.dumps(Bomb()),):
        with pytest.raises(ModelError, match="ncbatch convert"):
            parse(data, "x.pt")
    path = tmp_path / "x.pt"
    torch.save({"state_dict": Bomb()}, path)
    with pytest.raises(ModelError, match="ncbatch convert"):
        parse(path.read_bytes(), "x.pt")
    with pytest.raises(ModelError, match="plain tensors"):
        zoo.convert(path)


def test_convert_reads_a_torch_file(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"state_dict": checkpoint.state_dict(), "lmbda": 0.01}, path)
    assert zoo.convert(path).digest == checkpoint.digest
    torch.save(checkpoint.state_dict(), path)
    with pytest.raises(ModelError, match="--lmbda"):
        zoo.convert(path)
    assert zoo.convert(path, lmbda=0.01).digest == checkpoint.digest
    torch.save({"state_dict": {"a": torch.zeros(1)}, "lmbda": 0.01}, path)
    with pytest.raises(ModelError, match="MeanScaleHyperprior"):
        zoo.convert(path)
    with pytest.raises(ModelError, match="nowhere"):
        zoo.convert(tmp_path / "nowhere.pt")


def test_convert_knows_a_checkpoint_of_ours(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(checkpoint.to_bytes())
    for lmbda in (None, 0.01):
        with pytest.raises(ModelError, match=r"is an ncbatch checkpoint already; .* --model .*\.safetensors"):
            zoo.convert(path, lmbda=lmbda)


def test_convert_tells_what_is_wrong_with_a_file_in_one_line(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Torch raises IndexError, struct.error, KeyError and others, some without a word, of damaged files."""
    path = tmp_path / "weights.pt"
    for zipped in (False, True):
        torch.save({"a": torch.zeros(3)}, path, _use_new_zipfile_serialization=zipped)
        whole = path.read_bytes()
        for end in (*range(0, len(whole) - 8, 7), len(whole) // 2):
            path.write_bytes(whole[:end])
            with pytest.raises(ModelError, match=r"weights\.pt is not a whole torch file"):
                zoo.convert(path, lmbda=0.01)
    weights = checkpoint.state_dict()
    for content, match in [
        ({"state_dict": [1, 2], "lmbda": 0.01}, "holds a list"),
        ({"state_dict": weights, "lmbda": "much"}, "'much'"),
        ({"state_dict": weights, "lmbda": -1.0}, "--lmbda"),
    ]:
        torch.save(content, path)
        with pytest.raises(ModelError, match=match):
            zoo.convert(path)
    for name in weights:
        torch.save(weights | {name: torch.zeros(7, 2, 3)}, path)
        with pytest.raises(ModelError):
            zoo.convert(path, lmbda=0.01)


@pytest.mark.parametrize(
    "old", ["entropy_bottleneck._{}.", "entropy_bottleneck._{}", "module.entropy_bottleneck._{}."]
)
def test_convert_knows_the_names_in_the_zoos_files(checkpoint: Checkpoint, tmp_path: Path, old: str) -> None:
    """Of releases of CompressAI before 1.2.3; without CompressAI."""
    plain = ("matrices", "biases", "factors") if old.endswith(".") else ("matrix", "bias", "factor")
    weights = {}
    for name, tensor in checkpoint.state_dict().items():
        for new, short in zip(("matrices", "biases", "factors"), plain, strict=True):
            name = name.replace(f"entropy_bottleneck.{new}.", old.format(short))
        weights[name] = tensor
    assert len(set(weights) - set(checkpoint.state_dict())) == 14
    torch.save(weights, tmp_path / "zoo.pth.tar")
    assert zoo.convert(tmp_path / "zoo.pth.tar", lmbda=0.01).digest == checkpoint.digest


def test_zoo_without_compressai_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "compressai.zoo", None)
    with pytest.raises(ModelError, match=r"pip install 'ncbatch\[zoo\]'") as caught:
        zoo.load_zoo("compressai:mbt2018-mean/3")
    assert "\n" not in str(caught.value)


def test_diverged_weights_are_refused(checkpoint: Checkpoint) -> None:
    weights = checkpoint.state_dict()
    weights["h_s.0.weight"] = weights["h_s.0.weight"] * torch.nan
    with pytest.raises(ModelError, match="finite"):
        export(weights, lmbda=0.01)


def test_zoo_without_network_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("compressai", reason="CompressAI downloads the zoo's weights (extra zoo)")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("http_proxy", "https_proxy", "HTTPS_PROXY", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing listens there: no network, on any machine
    with pytest.raises(ModelError, match="could not be downloaded"):
        zoo.load_zoo("compressai:mbt2018-mean/3")


def test_models_that_are_not_in_the_zoo() -> None:
    for name in ("compressai:mbt2018-mean/9", "compressai:bmshj2018-factorized/3"):
        with pytest.raises(ModelError, match="quality"):
            zoo.load_zoo(name)


def test_a_header_as_long_as_a_pickles_first_byte_is_no_pickle(checkpoint: Checkpoint) -> None:
    data = checkpoint.to_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    for first in (b"\x80", b"PK"):
        longer = next(n for n in range(length, length + 2**16) if struct.pack("<Q", n).startswith(first))
        padded = struct.pack("<Q", longer) + data[8 : 8 + length].ljust(longer) + data[8 + length :]
        assert parse(padded, "x").digest == checkpoint.digest
