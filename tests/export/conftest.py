"""Exported decoders of the tiny models, and files for them that are encoded here."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ncbatch.codec import ans, bitstream
from ncbatch.codec.decode import decode_latents, reconstruct
from ncbatch.codec.encode import write
from ncbatch.codec.model.exact_hyper_synthesis import UNIT
from ncbatch.codec.model.hyperprior import Latents, Model, to_tensor
from ncbatch.images.carried import Carried
from ncbatch.selftest import golden
from tests.codec.write_golden import far_out, image

KINDS = ("base", "bits-back")
NAMES = ("plain", "two-tiles", "one-pixel", "escapes", "version-1", "tail")


@dataclass(frozen=True)
class Sample:
    """A file, and what ncbatch decodes it to. y_hat: integers in units of 1/256, [M, h, w]."""

    data: bytes
    y_hat: NDArray[np.int64]
    pixels: NDArray[np.uint8]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def models() -> dict[str, Model]:
    return {kind: Model(golden.tiny_model(kind)) for kind in KINDS}


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What `ncbatch export-decoder` writes, by the model's kind."""
    pytest.importorskip("onnx")
    from ncbatch.cli.main import main

    found = {}
    for kind in KINDS:
        found[kind] = tmp_path_factory.mktemp(f"decoder-{kind}")
        source = Path(str(golden.TINY)) / f"{kind}.safetensors"
        assert main(["export-decoder", os.fspath(source), "--out", str(found[kind])]) == 0
    return found


@pytest.fixture(scope="session")
def samples(models: dict[str, Model]) -> dict[str, dict[str, Sample]]:
    """By the model's kind and the name of what is special about them."""
    return {kind: dict(zip(NAMES, _made(model), strict=True)) for kind, model in models.items()}


def _made(model: Model) -> Iterator[Sample]:
    # 1,100 pixels are more than any decoder computes at once: 56 or 32 latents, or 16 hyper-latents.
    for width, height in ((130, 70), (1100, 40), (1, 1)):
        pixels = image(width, height, width)
        latents = model.round(*model.analyse(to_tensor(pixels, model.device)))
        yield _sample(model, write(model, latents, "amortized", height, width))
    pixels = image(90, 70, 3)
    yield _sample(model, write(model, far_out(model, pixels), "amortized", 70, 90))
    yield _sample(model, _written_as_version_1(model, far_out(model, pixels), 70, 90))
    alone = bitstream.parse(write(model, latents, "amortized", 1, 1), max_pixels=1)
    yield _sample(model, bitstream.serialise(replace(alone, carried=Carried(xmp=b"<x/>"))))


def _sample(model: Model, data: bytes) -> Sample:
    stream = bitstream.parse(data, max_pixels=10**6)
    latents = decode_latents(model, stream)
    mu, _ = model.coding_parameters(latents.z)
    y_hat = UNIT * latents.y.numpy().astype(np.int64) + mu.numpy()
    return Sample(data, y_hat[0], reconstruct(model, latents, stream.height, stream.width))


def with_tail(data: bytes) -> bytes:
    """The file as one of version 3, which something follows that is no part of the image."""
    body = data[:3] + b"\3" + data[4:-4]
    return body + zlib.crc32(body).to_bytes(4, "little") + b"a tail"


def _written_as_version_1(model: Model, latents: Latents, height: int, width: int) -> bytes:
    """With standard deviations that are not coarse, as nothing writes any more."""
    _, sigma = model.coding_parameters(latents.z)
    stack = ans.new_coder()
    ans.push_gaussian(stack, latents.y[0].numpy(), sigma[0].numpy())
    model.z_tables.push(stack, latents.z[0].numpy())
    stream = bitstream.parse(write(model, latents, "amortized", height, width), max_pixels=10**6)
    old = replace(stream, payload=ans.payload_of(stack), version=bitstream.EXACT_VERSION)
    return bitstream.serialise(old)
