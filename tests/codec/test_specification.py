"""The specification in `docs/formats/` is complete: a decoder written from it alone decodes the golden files.

That decoder, `spec_decoder.py` and `spec_pack_decoder.py`, shares no code with ncbatch.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from ncbatch.codec import bitstream
from ncbatch.models import catalog
from ncbatch.selftest import golden
from tests.codec import spec_decoder, spec_pack_decoder
from tests.codec.spec_decoder import Checkpoint, Decoded

GOLDEN, TINY = Path(str(golden.FOLDER)), Path(str(golden.TINY))
FILES: dict[str, dict[str, Any]] = {
    f"{folder.name}/{name}": said
    for folder in golden.TINY_SETS
    for name, said in json.loads((folder / "index.json").read_text()).items()
}
PAGES = Path(__file__).parents[2] / "docs" / "formats"
_LEVELS = 0.01  # as in `test_golden`: one sample in a hundred may be one level off


@functools.cache
def model(kind: str) -> Checkpoint:
    return Checkpoint((TINY / f"{kind}.safetensors").read_bytes())


def check(decoded: Decoded, said: dict[str, Any]) -> None:
    # The index holds them as float32, which is what the synthesis takes; escapes reach beyond its 24 bits.
    y_hat = decoded.y_hat.astype(np.float32).astype("<i8")
    digest = hashlib.sha256(y_hat.tobytes()).hexdigest()
    assert digest == said["y_hat_sha256"]
    assert decoded.image.shape == (said["height"], said["width"], 3)
    assert abs(int(decoded.image.sum(dtype=np.int64)) - said["samples_sum"]) <= _LEVELS * decoded.image.size


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".ncb")])
def test_the_specification_decodes_a_file(name: str) -> None:
    said = FILES[name]
    decoded = spec_decoder.decode_ncb(model(said["model"]), (GOLDEN / name).read_bytes())
    check(decoded, said["images"][0])
    names = {1: "icc", 2: "exif", 3: "xmp", 4: "cicp", 5: "alpha"}
    hashes = {names[kind]: hashlib.sha256(item).hexdigest() for kind, item in decoded.carried.items()}
    assert hashes == said.get("carried", {})


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".ncbp")])
def test_the_specification_decodes_a_pack(name: str) -> None:
    images, side = spec_pack_decoder.decode_ncbp(model("bits-back"), (GOLDEN / name).read_bytes())
    assert len(images) == len(FILES[name]["images"])
    for decoded, said in zip(images, FILES[name]["images"], strict=True):
        check(decoded, said)
    assert side == (b"bits of something else" if "with-side-information" in name else b"")


def test_the_specification_decodes_a_file_of_a_built_in_model() -> None:
    """N = 64 and M = 192, and a checkpoint that does not name its digest."""
    name, source = "base-0.080-65x63-sga.ncb", catalog.builtin_file("base-0.080")
    said = json.loads((GOLDEN / "index.json").read_text())["files"][name]
    built_in = Checkpoint(source.read_bytes())
    if built_in.digest != said["model_digest"]:
        pytest.skip("the model of this file is no longer in the package")
    decoded = spec_decoder.decode_ncb(built_in, (GOLDEN / name).read_bytes())
    check(decoded, said | {"width": 65, "height": 63, "samples_sum": said["pixels_sum"]})


def test_the_worked_example_is_what_the_decoder_goes_through() -> None:
    page = (PAGES / "ncb.md").read_text()
    section = page[page.index("## A worked example") : page.index("## Versions")]
    said = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", section, re.MULTILINE))

    def listed(values: Any) -> str:
        return " ".join(map(str, np.asarray(values).reshape(-1).tolist()))

    def stands(stack: spec_decoder.Stack) -> str:
        return f"{stack._state:#x}, {len(stack._words)}"

    tiny, data = model("base"), (GOLDEN / "tiny-2/base-1x1-amortized.ncb").read_bytes()
    assert data[13:16] == bytes([1, 1, 79]) and said["width, height, words of the payload"] == "1, 1, 79"
    stack = spec_decoder.Stack(spec_decoder.words_of(data[16:-4]))
    assert stands(stack) == said["the state, and the words below it, at the start"]
    symbols = spec_decoder.pop_z(stack, tiny, "z", 1, 1)
    assert listed(symbols) == said["symbols of z"]
    z = 256 * symbols + tiny.integers("z.median")[:, None, None]
    assert listed(z) == said["values of z"]
    assert stands(stack) == said["the state, and the words below it, after z"]
    mu, sigma = spec_decoder.hyper_synthesis(tiny, z)
    assert listed(sigma[:, 0, 0]) == said["sigma of each channel of y, upper left"]
    assert listed(mu[:, 0, 0]) == said["mu of each channel of y, upper left"]
    assert f"{sigma.sum()} and {mu.sum()}" == said["sums of sigma and of mu"]
    coarse = spec_decoder.coarse(sigma)
    assert listed(coarse[:, 0, 0]) == said["coarse sigma, upper left"]
    several = f"{len(np.unique(coarse))}, {coarse.min()}, {coarse.max()}"
    assert several == said["distinct coarse sigmas, the smallest and the largest"]
    _, frequencies = spec_decoder.gaussian_table(28, 0)
    assert listed(frequencies) == said["frequencies of the table of sigma 28"]
    assert listed(spec_decoder.Table(frequencies)._bounds[:-1]) == said["its left bounds"]
    y = spec_decoder.pop_gaussian(stack, coarse, np.zeros_like(coarse))
    assert listed(y[:, 0, 0]) == said["symbols of y, upper left"]
    y_hat = 256 * y + mu
    assert listed(y_hat[:, 0, 0]) == said["y_hat, upper left"] and f"{y_hat.sum()}" == said["sum of y_hat"]
    decoded = spec_decoder.decode_ncb(tiny, data)
    assert listed(decoded.image) == said["red, green and blue of the pixel"]
    assert len(said) == 16 + 1  # and the head of the table


def test_a_damaged_file_is_refused() -> None:
    data = bytearray((TINY / "base-64x64-amortized.ncb").read_bytes())
    data[40] ^= 1
    with pytest.raises(spec_decoder.DamagedError):
        spec_decoder.decode_ncb(model("base"), bytes(data))


@pytest.mark.parametrize("decoder", [spec_decoder, spec_pack_decoder])
def test_the_second_decoder_shares_no_code_with_the_first(decoder: ModuleType) -> None:
    tree = ast.parse(Path(str(decoder.__file__)).read_text())
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules.discard("tests.codec.spec_decoder")
    assert not {module.split(".")[0] for module in modules} & {"ncbatch", "constriction", "torch", "tests"}


def test_the_pages_state_the_constants_that_the_decoder_used() -> None:
    ncb, ncbp = ((PAGES / name).read_text() for name in ("ncb.md", "ncbp.md"))
    table = np.array(spec_decoder.distribution(), dtype="<i8")
    assert hashlib.sha256(table.tobytes()).hexdigest() in ncb
    assert " ".join(map(str, spec_pack_decoder.SIGMAS)) in re.sub(r"\s+", " ", ncbp)
    listed = re.findall(r"^\| (\d) \| `([a-z+-]+)`", ncb, re.MULTILINE)
    assert listed == [(str(number), method) for number, method in sorted(bitstream.METHODS.items())]
