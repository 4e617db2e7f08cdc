"""Files that another machine wrote with an earlier version decode here to the very same latents.

They are in the package, for `ncbatch selftest` (see `ncbatch.selftest.golden`). `write_golden.py` wrote
`golden/tiny` on a machine with AVX2 and no AVX512, and `golden/tiny-2` on one restricted to AVX2; files of
`golden/tiny-3` are some of the latter with tails.

`golden/` must never be written anew: what was compressed stays readable for ever. The files name their
models by digest. While a model is built in, its files must decode; a model that leaves the package has to
stay loadable from somewhere else before its files may be given up; until then they are skipped, with its
digest.

`index.json` holds, per `.ncb` file, the SHA-256 of y_hat in units of 1/256 as little-endian int64, in the
order of its dimensions, and the sum of all samples of the image.
"""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from ncbatch.codec import bitstream
from ncbatch.codec.bits_back import pack_file
from ncbatch.codec.bits_back.pack import PackReader
from ncbatch.codec.bits_back.pack_file import PackFile
from ncbatch.codec.bitstream import short_digest
from ncbatch.codec.decode import decode_latents, reconstruct
from ncbatch.codec.errors import BitstreamError
from ncbatch.codec.methods import METHODS
from ncbatch.codec.model.exact_hyper_synthesis import UNIT
from ncbatch.codec.model.hyperprior import Model, to_pixels
from ncbatch.images.alpha_plane import plane_of
from ncbatch.images.carried import Carried
from ncbatch.models import catalog, zoo
from ncbatch.selftest import golden
from ncbatch.selftest.golden import FOLDER, MAX_PIXELS, told

GOLDEN = Path(str(FOLDER))
FILES: dict[str, dict[str, Any]] = json.loads((GOLDEN / "index.json").read_text())["files"]
TINY_SETS = [Path(str(folder)) for folder in golden.TINY_SETS]
WHOLE_SETS = TINY_SETS[:2]
"""With files of every method, and packs; the others show what a later version brought in."""
TINY_FILES: dict[Path, dict[str, Any]] = {
    folder / name: said
    for folder in TINY_SETS
    for name, said in json.loads((folder / "index.json").read_text()).items()
}
# Of the integers y_hat of three.ncbp's images, as int64; its own checksums have only 16 bits for them.
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
    image = reconstruct(model, latents, stream.height, stream.width)
    assert abs(int(image.sum(dtype=np.int64)) - said["pixels_sum"]) <= _LEVELS * image.size


def test_a_pack_from_elsewhere_decodes_to_the_same_latents() -> None:
    data = (GOLDEN / "three.ncbp").read_bytes()
    model = model_of("379a10758dbcaac942a261e927a334d5b470e356af6c97e02ea857278c02bfba")
    reader = PackReader(model, data, max_pixels=10**6)
    digests = {}
    for unpacked in reader.images():
        entry = unpacked.entry
        digests[unpacked.index] = digest_of(unpacked.y_hat)
        image = to_pixels(model.synthesise(unpacked.y_hat.float()), entry.height, entry.width)
        assert image.shape == (96, 128, 3)
    assert [digests[i] for i in range(3)] == THREE
    assert reader.side_information == b""


@functools.cache
def tiny_model(kind: str) -> Model:
    return Model(golden.tiny_model(kind))


def tiny_name(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def read_tiny_pack(path: Path) -> PackReader:
    return PackReader(tiny_model("bits-back"), path.read_bytes(), max_pixels=MAX_PIXELS)


@pytest.mark.parametrize("folder", TINY_SETS, ids=lambda folder: folder.name)
def test_the_tiny_index_names_the_files_that_are_there(folder: Path) -> None:
    there = {path for path in folder.iterdir() if path.suffix in (".ncb", ".ncbp")}
    files = {path: said for path, said in TINY_FILES.items() if path.parent == folder}
    assert there == set(files)
    if folder in WHOLE_SETS:
        assert {image["method"] for file in files.values() for image in file["images"]} == set(METHODS)


@pytest.mark.parametrize("path", TINY_FILES, ids=tiny_name)
def test_a_tiny_models_file_decodes_to_the_same_latents(path: Path) -> None:
    said, data = TINY_FILES[path], path.read_bytes()
    assert len(data) == said["bytes"]
    images = told(tiny_model(said["model"]), data)
    assert len(images) == len(said["images"])
    for image, then in zip(images, said["images"], strict=True):
        samples = 3 * image["width"] * image["height"]
        assert abs(image["samples_sum"] - then["samples_sum"]) <= _LEVELS * samples
        assert image | {"samples_sum": 0} == then | {"samples_sum": 0}


@pytest.mark.parametrize("folder", WHOLE_SETS, ids=lambda folder: folder.name)
def test_the_tiny_packs_have_what_they_are_there_for(folder: Path) -> None:
    corrected = [u.entry.corrections for u in read_tiny_pack(folder / "corrected.ncbp").images()]
    assert sum(map(bool, corrected)) == 2
    entries = [u.entry for u in read_tiny_pack(folder / "partly-plain.ncbp").images()]
    assert [entry.posterior is None for entry in reversed(entries)] == [True, True, False, True, False]
    path = folder / "inferred-named-with-side-information.ncbp"
    reader = read_tiny_pack(path)
    assert len(list(reader.images())) == 5
    assert reader.side_information == b"bits of something else"
    names = PackFile(path.read_bytes(), max_pixels=MAX_PIXELS).names
    assert names is not None
    assert names[0].decode() == "é.png"


def test_every_version_that_was_ever_written_has_golden_files() -> None:
    """The numbers are spelled out here: removing one from the readers must fail."""
    assert {(path.suffix, path.read_bytes()[3]) for path in TINY_FILES} == {
        (".ncb", 1), (".ncb", 2), (".ncb", 3), (".ncbp", 2), (".ncbp", 3), (".ncbp", 4), (".ncbp", 5),
    }  # fmt: skip


def test_what_golden_files_carry_comes_out_as_it_went_in() -> None:
    shown = {path: said["carried"] for path, said in TINY_FILES.items() if "carried" in said}
    assert {path.read_bytes()[3] for path in shown} == {3}
    for path, said in shown.items():
        carried = bitstream.parse(path.read_bytes(), max_pixels=MAX_PIXELS).carried
        found = {name: content for name, content in asdict(carried).items() if content}
        assert {name: hashlib.sha256(content).hexdigest() for name, content in found.items()} == said


def test_the_alpha_plane_of_a_golden_file_is_what_it_was() -> None:
    shown = {path: said["alpha_plane_sha256"] for path, said in TINY_FILES.items() if "alpha" in path.name}
    assert shown
    for path, said in shown.items():
        stream = bitstream.parse(path.read_bytes(), max_pixels=MAX_PIXELS)
        plane = plane_of(stream.carried.alpha, stream.width, stream.height)
        assert hashlib.sha256(plane.tobytes()).hexdigest() == said


def read_as_the_other(data: bytes) -> bytes:
    """The file, claiming to be of the version that treats the parameters of y the other way."""
    if data.startswith(bitstream.MAGIC):
        stream = bitstream.parse(data, max_pixels=MAX_PIXELS)
        return bitstream.serialise(replace(stream, version=3 - stream.version, carried=Carried()))
    header, position = pack_file._read_header(data)
    return pack_file.write_header(replace(header, coarse=not header.coarse)) + data[position:]


@pytest.mark.parametrize("path", TINY_FILES, ids=tiny_name)
def test_the_version_decides_how_a_file_is_read(path: Path) -> None:
    """Otherwise the golden files would not tell the versions apart."""
    said, data = TINY_FILES[path], path.read_bytes()
    try:
        found = [image["y_hat_sha256"] for image in told(tiny_model(said["model"]), read_as_the_other(data))]
    except BitstreamError:
        return
    assert found != [image["y_hat_sha256"] for image in said["images"]]


@pytest.mark.parametrize(("folder", "versions"), [("tiny", (2, 3)), ("tiny-2", (4, 5))])
def test_names_change_nothing_else_in_a_pack_of_any_version(folder: str, versions: tuple[int, int]) -> None:
    path = GOLDEN / folder / "partly-plain.ncbp"
    data, said = path.read_bytes(), TINY_FILES[path]
    named = pack_file.with_names(data, [b"a", b"b", b"c", b"d", b"e"])
    assert (data[3], named[3]) == versions
    images = told(tiny_model("bits-back"), named)
    assert [i["y_hat_sha256"] for i in images] == [i["y_hat_sha256"] for i in said["images"]]
