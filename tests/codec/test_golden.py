"""Files that another machine wrote with an earlier version decode here to the very same latents.

`golden/` must never be written anew: what was compressed stays readable for ever. The files name their
models by digest. While a model is built in, its files must decode; a model that leaves the package has to
stay loadable from somewhere else before its files may be given up; until then they are skipped, with its
digest.

`index.json` holds, per `.ncb` file, the SHA-256 of y_hat in units of 1/256 as little-endian int64, in the
order of its dimensions, and the sum of all samples of the picture.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from ncbatch.codec import bitstream, catalog, zoo
from ncbatch.codec.bitstream import short_digest
from ncbatch.codec.decode import decode_latents, reconstruct
from ncbatch.codec.exact import UNIT
from ncbatch.codec.model import Model, to_pixels
from ncbatch.codec.packing import PackReader

GOLDEN = Path(__file__).parent / "golden"
FILES: dict[str, dict[str, Any]] = json.loads((GOLDEN / "index.json").read_text())["files"]
# Of the integers y_hat of three.ncbp's pictures, as int64; its own checksums have only 16 bits for them.
THREE = [
    "9112ebbd115b3e1deff074f3df403f5d7be1f5de534fd53d92f8a57973c8f7bf",
    "578fc5bb0909dc1413d20d16f618b9c4d9812f2281989d857623eba2ed382146",
    "2a71b3733a2600ca5ee7490e748f8c19468923a15a736ec2cebcea0ea56252a4",
]
_LEVELS = 0.01  # the float32 synthesis may put one sample in a hundred one level off, elsewhere


def model_of(digest: str) -> Model:
    """The built-in model of a digest, whole or short; skips the test where there is none any more."""
    for name in catalog.builtin_models():
        checkpoint = zoo.load_builtin(name)
        if digest in (checkpoint.digest, short_digest(checkpoint.digest)):
            return Model(checkpoint)
    pytest.skip(f"the model {digest} is no longer in the package, and its files need it")


def digest_of(latents: Tensor) -> str:
    return hashlib.sha256(latents.cpu().numpy().astype("<i8").tobytes()).hexdigest()


def test_the_index_names_the_files_that_are_there() -> None:
    assert {path.name for path in GOLDEN.glob("*.ncb")} == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_a_file_from_elsewhere_decodes_to_the_same_latents(name: str) -> None:
    said, data = FILES[name], (GOLDEN / name).read_bytes()
    model, stream = model_of(said["model_digest"]), bitstream.parse(data, max_pixels=10**6)
    assert len(data) == said["bytes"]
    assert f"{stream.width}x{stream.height}-{stream.method}" in name
    latents = decode_latents(model, stream)
    assert digest_of(model.y_hat(latents).double() * UNIT) == said["y_hat_sha256"]
    picture = reconstruct(model, latents, stream.height, stream.width)
    assert abs(int(picture.sum(dtype=np.int64)) - said["pixels_sum"]) <= _LEVELS * picture.size


def test_a_pack_from_elsewhere_decodes_to_the_same_latents() -> None:
    data = (GOLDEN / "three.ncbp").read_bytes()
    model = model_of("379a10758dbcaac942a261e927a334d5b470e356af6c97e02ea857278c02bfba")
    reader = PackReader(model, data, max_pixels=10**6)
    digests = {}
    for unpacked in reader.pictures():
        entry = unpacked.entry
        digests[unpacked.index] = digest_of(unpacked.y_hat)
        picture = to_pixels(model.synthesise(unpacked.y_hat.float()), entry.height, entry.width)
        assert picture.shape == (96, 128, 3)
    assert [digests[i] for i in range(3)] == THREE
    assert reader.side_information == b""
