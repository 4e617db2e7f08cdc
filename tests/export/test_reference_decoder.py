"""The exported decoder decodes what ncbatch encodes, where nothing of ncbatch is installed."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ncbatch.codec import bitstream
from ncbatch.codec.decode import decode
from ncbatch.codec.model.hyperprior import Model
from ncbatch.export.portable import ncb_decoder
from ncbatch.images.alpha_plane import coded_plane
from ncbatch.images.carried import Carried
from ncbatch.selftest.golden import golden_files
from tests.export.conftest import KINDS, NAMES, Sample, with_tail

pytest.importorskip("onnxruntime")

_PROGRAM = """
import importlib.abc, sys
from pathlib import Path

class Refused(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[1].split(","):
            raise ImportError(f"{name} is not to be imported")

sys.meta_path.insert(0, Refused())
folder = Path(sys.argv[2])
sys.path.insert(0, str(folder))
import ncb_decoder, numpy

decoder = ncb_decoder.Decoder(folder, threads=1)
for file in map(Path, sys.argv[3:]):
    latents = decoder.latents(file.read_bytes())
    pixels = decoder.synthesise(latents.y_hat)[: latents.height, : latents.width]
    numpy.savez(file.with_suffix(".npz"), y_hat=latents.y_hat, pixels=pixels)
"""

_NOT_THERE = ("torch", "compressai", "constriction", "ncbatch", "safetensors", "onnx", "PIL", "scipy")


@pytest.fixture(scope="module")
def decoded(
    folders: dict[str, Path], samples: dict[str, dict[str, Sample]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """KIND/NAME.npz of every sample, made by processes that cannot import ncbatch or what it is built on."""
    place = tmp_path_factory.mktemp("decoded")
    for kind in KINDS:
        (place / kind).mkdir()
        files = []
        for name, sample in samples[kind].items():
            files.append(place / kind / f"{name}.ncb")
            files[-1].write_bytes(sample.data)
        words = [",".join(_NOT_THERE), str(folders[kind]), *map(str, files)]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        subprocess.run([sys.executable, "-c", _PROGRAM, *words], check=True, cwd=place, env=environment)
    return place


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_latents_are_the_same_and_pixels_within_a_level(
    decoded: Path, samples: dict[str, dict[str, Sample]], kind: str, name: str
) -> None:
    found, sample = np.load(decoded / kind / f"{name}.npz"), samples[kind][name]
    assert found["y_hat"].dtype == np.int64 and np.array_equal(found["y_hat"], sample.y_hat)
    difference = np.abs(found["pixels"].astype(int) - sample.pixels)
    assert difference.shape == sample.pixels.shape
    assert difference.max() <= 1 and (difference > 0).mean() < 0.001


def test_files_of_all_versions_decode(folders: dict[str, Path]) -> None:
    decoders = {kind: ncb_decoder.Decoder(folder, threads=1) for kind, folder in folders.items()}
    by_digest = {decoder.digest: decoder for decoder in decoders.values()}
    checked = set()
    for file in golden_files():
        if file.data.startswith(b"NCB") and file.model.digest in by_digest:
            latents = by_digest[file.model.digest].latents(file.data)
            # The index holds them as float32; escapes reach beyond its 24 bits.
            y_hat = latents.y_hat.astype(np.float32).astype("<i8")
            assert hashlib.sha256(y_hat.tobytes()).hexdigest() == file.images[0]["y_hat_sha256"], file.name
            checked.add(file.data[3])
    assert checked == {1, 2, 3}


@pytest.mark.slow
def test_files_of_built_in_models_decode(tmp_path: Path) -> None:
    from ncbatch.export.folder import exported_files

    for file in golden_files():
        if not file.data.startswith(b"NCB") or file.name.startswith("tiny"):
            continue
        for exported in exported_files(file.model, file.name, "test"):
            place = tmp_path / exported.name
            place.parent.mkdir(exist_ok=True)
            place.write_bytes(exported.data)
        decoder = ncb_decoder.Decoder(tmp_path, threads=1)
        latents = decoder.latents(file.data)
        digest = hashlib.sha256(latents.y_hat.astype("<i8").tobytes()).hexdigest()
        assert digest == file.images[0]["y_hat_sha256"], file.name
        difference = np.abs(decoder.decode(file.data).astype(int) - decode(Model(file.model), file.data))
        assert difference.max() <= 1 and (difference > 0).mean() < 0.001, file.name


def test_it_is_a_program_that_writes_a_png(
    folders: dict[str, Path], samples: dict[str, dict[str, Sample]], tmp_path: Path
) -> None:
    sample = samples["base"]["plain"]
    (tmp_path / "a.ncb").write_bytes(sample.data)
    program = [sys.executable, str(folders["base"] / "ncb_decoder.py")]
    subprocess.run([*program, "a.ncb", "a.png"], check=True, cwd=tmp_path)
    with Image.open(tmp_path / "a.png") as image:
        assert np.abs(np.asarray(image).astype(int) - sample.pixels).max() <= 1
    (tmp_path / "b.ncb").write_bytes(sample.data[:-5])
    done = subprocess.run([*program, "b.ncb", "b.png"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and not (tmp_path / "b.png").exists()
    assert done.stderr == "error: the checksum does not match: the file is cut short or damaged\n"


@pytest.fixture(scope="module")
def decoder(folders: dict[str, Path]) -> ncb_decoder.Decoder:
    return ncb_decoder.Decoder(folders["base"], threads=1)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (lambda data: b"", "not an .ncb file"),
        (lambda data: b"NCP" + data[3:], "a pack of several images, which only ncbatch decodes"),
        (lambda data: data[:3] + b"\x63" + data[4:], "of a version that this decoder does not know"),
        (lambda data: data[:12], "a number that does not end"),
        (lambda data: data[:40] + bytes([data[40] ^ 1]) + data[41:], "cut short or damaged"),
        (lambda data: data[:5] + b"\0" * 8 + data[13:], "cut short or damaged"),
    ],
    ids=["empty", "pack", "version", "header", "payload", "digest"],
)
def test_what_is_no_file_is_refused(
    decoder: ncb_decoder.Decoder, samples: dict[str, dict[str, Sample]], changed: object, says: str
) -> None:
    assert callable(changed)
    with pytest.raises(ncb_decoder.DecodingError, match=says):
        decoder.decode(changed(samples["base"]["plain"].data))


def test_files_of_other_models_and_large_ones_are_refused(
    decoder: ncb_decoder.Decoder, samples: dict[str, dict[str, Sample]]
) -> None:
    with pytest.raises(ncb_decoder.DecodingError, match="the file is of the model"):
        decoder.decode(samples["bits-back"]["plain"].data)
    with pytest.raises(ncb_decoder.DecodingError, match="1100 x 40 pixels, more than 30000"):
        decoder.decode(samples["base"]["two-tiles"].data, max_pixels=30_000)


def test_what_follows_the_checksum_in_version_3_is_passed_over(
    decoder: ncb_decoder.Decoder, samples: dict[str, dict[str, Sample]]
) -> None:
    sample = samples["base"]["plain"]
    assert np.array_equal(decoder.latents(with_tail(sample.data)).y_hat, sample.y_hat)
    with pytest.raises(ncb_decoder.DecodingError, match="cut short or damaged"):
        decoder.latents(sample.data + b"a tail")  # in version 2, nothing stands there


def test_an_alpha_plane_is_read_with_pillow_and_otherwise_said_to_be_left_away(
    folders: dict[str, Path], samples: dict[str, dict[str, Sample]], tmp_path: Path
) -> None:
    sample = samples["base"]["plain"]
    plane = (np.indices(sample.pixels.shape[:2]).sum(0) % 256).astype(np.uint8)
    stream = bitstream.parse(sample.data, max_pixels=10**6)
    carried = Carried(xmp=b"<x/>", alpha=coded_plane(plane))
    (tmp_path / "a.ncb").write_bytes(bitstream.serialise(replace(stream, carried=carried)))
    program = [sys.executable, str(folders["base"] / "ncb_decoder.py"), "a.ncb"]
    subprocess.run([*program, "a.png"], check=True, cwd=tmp_path)
    with Image.open(tmp_path / "a.png") as image:
        found = np.asarray(image)
    assert found.shape == (*plane.shape, 4) and np.array_equal(found[..., 3], plane)
    assert np.abs(found[..., :3].astype(int) - sample.pixels).max() <= 1
    (tmp_path / "PIL.py").write_text("raise ImportError\n")
    without = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([*program, "b.png"], cwd=tmp_path, env=without, capture_output=True, text=True)
    assert done.returncode == 0 and "the file's alpha channel is left away; install Pillow" in done.stderr
    with Image.open(tmp_path / "b.png") as image:
        assert np.array_equal(np.asarray(image), found[..., :3])


def test_its_coarse_deviations_and_tables_are_ours() -> None:
    from ncbatch.codec.gaussian_tables import coarse, gaussian_tables

    sigma = np.arange(28, 65536)
    assert np.array_equal(ncb_decoder.coarse(sigma), coarse(sigma.astype(np.int32)))
    some = np.array([28, 29, 127, 128, 1000, 65024, 65535])
    ours = gaussian_tables(some)
    for index, value in enumerate(some.tolist()):
        r, frequencies = ncb_decoder.gaussian_table(value)
        assert r == ours.reach[index] and np.array_equal(frequencies, ours.table(index))


def test_it_stays_small() -> None:
    assert len(Path(ncb_decoder.__file__).read_text().splitlines()) < 400
