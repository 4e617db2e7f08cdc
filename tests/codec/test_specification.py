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
    check(spec_decoder.decode_ncb(model(said["model"]), (GOLDEN / name).read_bytes()), said["images"][0])


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
