"""Files that another machine wrote with an earlier version, and what they have to decode to.

`golden/tiny` has its models (N = 8, M = 12) beside it, and every kind of file of version 1 of `.ncb` and
versions 2 and 3 of `.ncbp`; `golden/tiny-2` has the same of version 2 of `.ncb` and versions 4 and 5 of
`.ncbp`, of the same models. The files in `golden/` are of built-in models, and of the older versions. Each
folder has an `index.json` with the SHA-256 of every image's y_hat and the sum of its samples. Nothing there
is ever written anew.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
import torch

from ncbatch.codec import bitstream
from ncbatch.codec.bits_back.pack import PackReader
from ncbatch.codec.decode import decode_latents, reconstruct
from ncbatch.codec.model import checkpoint
from ncbatch.codec.model.checkpoint import Checkpoint
from ncbatch.codec.model.exact_hyper_synthesis import UNIT
from ncbatch.codec.model.hyperprior import Model, to_pixels
from ncbatch.images.pixels import Pixels
from ncbatch.models import catalog, zoo

FOLDER = resources.files("ncbatch.selftest") / "golden"
TINY = FOLDER / "tiny"
TINY_SETS = (TINY, FOLDER / "tiny-2", FOLDER / "tiny-3")
"""Folders with files of the tiny models, the older versions of the formats first."""

MAX_PIXELS = 10**6

_LEVELS = 0.01
"""The float32 synthesis may put one sample in a hundred one level off, on another machine."""

Said = dict[str, Any]


@dataclass(frozen=True)
class GoldenFile:
    """One file.

    Attributes:
        name: that tells it from the others.
        data: its bytes.
        model: that made it.
        images: what is known of each image that it holds, as `told` tells it.
    """

    name: str
    data: bytes
    model: Checkpoint
    images: list[Said]

    def problem(self, model: Model) -> str | None:
        """What is wrong with what it decodes to by its model on some device; None where nothing is."""
        found = told(model, self.data)
        if len(found) != len(self.images):
            return f"{self.name} decodes to {len(found)} images in place of {len(self.images)}"
        for index, (image, said) in enumerate(zip(found, self.images, strict=True)):
            where = f"image {index} of {self.name}" if len(self.images) > 1 else self.name
            samples = 3 * image["width"] * image["height"]
            if image["y_hat_sha256"] != said["y_hat_sha256"]:
                return f"{where} decodes to other latents than everywhere else"
            if abs(image["samples_sum"] - said["samples_sum"]) > _LEVELS * samples:
                return f"{where} decodes to the right latents, but to other pixels"
            if any(image[name] != said[name] for name in ("method", "width", "height") if name in said):
                return f"{where} decodes to an image of another size or method"
        return None


def golden_files() -> Iterator[GoldenFile]:
    """All files whose models are in the package, those of one model after each other."""
    of_tiny_models = [
        (said["model"], folder / name, said["images"])
        for folder in TINY_SETS
        for name, said in json.loads((folder / "index.json").read_text()).items()
    ]
    for kind, file, images in sorted(of_tiny_models, key=lambda told: str(told[0])):
        name = f"{file.parent.name}/{file.name}"
        yield GoldenFile(name, file.read_bytes(), tiny_model(kind), images)
    names = catalog.builtin_models()
    builtin = json.loads((FOLDER / "index.json").read_text())["files"]
    for name, said in sorted(builtin.items(), key=lambda item: item[1]["model"]):
        if said["model"] in names:
            model = zoo.load_builtin(said["model"])
            if model.digest == said["model_digest"]:
                images = [{"y_hat_sha256": said["y_hat_sha256"], "samples_sum": said["pixels_sum"]}]
                yield GoldenFile(name, (FOLDER / name).read_bytes(), model, images)


@functools.cache
def tiny_model(kind: str) -> Checkpoint:
    """The model of a kind that the files in TINY_SETS were made with."""
    name = f"{kind}.safetensors"
    return checkpoint.parse((TINY / name).read_bytes(), name)


def told(model: Model, data: bytes) -> list[Said]:
    """What a file's images decode to: sizes, SHA-256 of y_hat (int64, little-endian, in units of 1 / UNIT),
    sum of all samples.
    """
    if data.startswith(bitstream.MAGIC):
        stream = bitstream.parse(data, max_pixels=MAX_PIXELS)
        latents = decode_latents(model, stream)
        y_hat = model.y_hat(latents).double() * UNIT
        pixels = reconstruct(model, latents, stream.height, stream.width)
        return [_told(stream.method, y_hat, pixels)]
    images = {}
    for unpacked in PackReader(model, data, max_pixels=MAX_PIXELS).images():
        entry = unpacked.entry
        pixels = to_pixels(model.synthesise(unpacked.y_hat.float()), entry.height, entry.width)
        images[unpacked.index] = _told(entry.method, unpacked.y_hat, pixels)
    return [images[i] for i in range(len(images))]


def _told(method: str, y_hat: torch.Tensor, pixels: Pixels) -> Said:
    return {
        "method": method,
        "width": pixels.shape[1],
        "height": pixels.shape[0],
        "y_hat_sha256": hashlib.sha256(y_hat.cpu().numpy().astype("<i8").tobytes()).hexdigest(),
        "samples_sum": int(pixels.sum(dtype=np.int64)),
    }
