"""The main job on photographs, through S3 with two workers: what it must show.

    NCBATCH_PHOTOGRAPHS=FOLDER pytest -p tests.servers benchmarks/test_photographs.py -s

About five minutes for twelve photographs of 768x512 on two cores. Not part of the test suite.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from ncbatch.cli.console import print_table
from ncbatch.metrics.table import read_table
from ncbatch.plan.spec import read_run
from ncbatch.store import Store, open_store
from tests.servers import S3Server

STEPS = os.environ.get("NCBATCH_STEPS", "200")

# Decodes files named on the command line with a number of threads, and prints a hash of each one's y_hat.
LATENTS = """
import hashlib, sys, torch
from collections.abc import Iterator
from pathlib import Path
torch.set_num_threads(int(sys.argv[1]))
from ncbatch.codec import bitstream
from ncbatch.codec.model.checkpoint import parse
from ncbatch.codec.decode import decode_latents
from ncbatch.codec.model.hyperprior import Model
model = Model(parse(Path(sys.argv[2]).read_bytes(), "model"))
for name in sys.argv[3:]:
    stream = bitstream.parse(Path(name).read_bytes(), max_pixels=10**9)
    y_hat = model.y_hat(decode_latents(model, stream))
    print(hashlib.sha256(y_hat.contiguous().numpy().tobytes()).hexdigest())
"""


@pytest.fixture(scope="module")
def photographs() -> list[Path]:
    """The photographs in the folder that the environment names."""
    folder = os.environ.get("NCBATCH_PHOTOGRAPHS")
    if not folder:
        pytest.skip("NCBATCH_PHOTOGRAPHS does not name a folder of photographs")
    return sorted(Path(folder).glob("*.png"))


@pytest.fixture(scope="module")
def outputs(photographs: list[Path], rclone_server: S3Server) -> Iterator[dict[str, Store]]:
    """The finished runs of both methods."""
    patch = pytest.MonkeyPatch()
    rclone_server.use(patch)
    bucket = rclone_server.make_bucket()
    corpus = open_store(f"s3://{bucket}/photographs")
    for path in photographs:
        corpus.put(path.name, path.read_bytes())
    environment = os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    found = {}
    for method, more in (("amortized", []), ("sga", ["--steps", STEPS])):
        uri = f"s3://{bucket}/{method}"
        words = ["encode", corpus.uri, uri, "--method", method, "--workers", "2", *more]
        subprocess.run([sys.executable, "-m", "ncbatch", *words], check=True, env=environment)
        found[method] = open_store(uri)
    yield found
    patch.undo()


def table(output: Store) -> pa.Table:
    return read_table(output)


def test_every_image_has_one_row_and_is_ok(outputs: dict[str, Store], photographs: list[Path]) -> None:
    for output in outputs.values():
        rows = table(output)
        assert rows["image_key"].to_pylist() == [p.name for p in photographs]
        assert set(rows["status"].to_pylist()) == {"ok"}


def test_fresh_processes_decode_the_same_latents_whatever_their_threads(
    outputs: dict[str, Store], tmp_path: Path
) -> None:
    for method, output in outputs.items():
        folder = tmp_path / method
        folder.mkdir()
        digest = read_run(output).spec.variants[0].model_digest
        model = folder / "model.safetensors"
        model.write_bytes(output.get(f"models/{digest}.safetensors"))
        names = []
        for row in table(output).to_pylist():
            path = folder / f"{row['image_key']}.ncb"
            path.write_bytes(output.get(row["bitstream_key"]))
            names.append(str(path))
        hashes = [
            subprocess.run(
                [sys.executable, "-c", LATENTS, threads, str(model), *names],
                check=True, capture_output=True, text=True, env=os.environ | environment,
            ).stdout.split()
            for threads, environment in (
                ("1", {}), ("2", {}), ("3", {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}),
            )
        ]  # fmt: skip
        assert len(hashes[0]) == len(names)
        assert hashes[0] == hashes[1] == hashes[2]
        shutil.rmtree(folder)


def test_bytes_are_within_the_information_content(outputs: dict[str, Store]) -> None:
    for method, output in outputs.items():
        rows = table(output).to_pylist()
        excess = []
        for row in rows:
            information = (row["bits_y"] + row["bits_z"]) / 8
            assert row["length"] <= information * 1.005 + 40, row["image_key"]
            excess.append(row["length"] / information - 1)
        print(f"\n{method}: bytes over information content: mean {100 * sum(excess) / len(excess):.3f} %")


def test_refinement_lowers_the_rd_loss_of_every_image(outputs: dict[str, Store]) -> None:
    amortized, refined = (table(outputs[m]).to_pylist() for m in ("amortized", "sga"))
    rows = []
    for a, r in zip(amortized, refined, strict=True):
        assert r["rd_loss"] < a["rd_loss"], a["image_key"]
        saved = 100 * (1 - r["rd_loss"] / a["rd_loss"])
        rows.append(
            (a["image_key"], a["bpp"], a["psnr"], a["rd_loss"], r["bpp"], r["psnr"], r["rd_loss"], saved)
        )
    rows.append(("mean", *(sum(row[i] for row in rows) / len(rows) for i in range(1, 8))))
    print_table(
        ("image", "bpp", "PSNR", "R-D loss", "bpp, sga", "PSNR, sga", "R-D loss, sga", "saved %"), rows
    )
