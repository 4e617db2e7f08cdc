"""Writes golden files: `python -m tests.codec.write_golden NEW_FOLDER BASE_CHECKPOINT BITS_BACK_CHECKPOINT`.

Run once for every version of the formats, by the code that introduces it, into a folder of its own; what is
there is never written again. The images are made here, from a seed; the checkpoints stay where they are.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ncbatch.codec.bits_back.encode import encode_pack, find, inference_settings
from ncbatch.codec.bits_back.pack import PackItem, write_pack
from ncbatch.codec.bits_back.pack_file import with_names
from ncbatch.codec.encode import encode, write
from ncbatch.codec.methods import LEARNED, Amortized, BitsBack, BitsBackBbvi, Packed, SgaBitsBack
from ncbatch.codec.model import checkpoint
from ncbatch.codec.model.hyperprior import Latents, Model, to_tensor
from ncbatch.selftest.golden import told

Pixels = NDArray[np.uint8]

_PLAIN = [
    ("amortized", 1, 1), ("amortized", 130, 97), ("amortized", 64, 64), ("sga", 65, 63), ("sga", 192, 128),
    ("map", 127, 129), ("ste", 7, 200), ("uniform-noise", 96, 64), ("deterministic-annealing", 100, 3),
]  # fmt: skip


def image(width: int, height: int, seed: int) -> Pixels:
    """Smooth shapes, edges and some noise: uint8[height, width, 3]."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / 40.0
    waves = [np.sin(a * x + b * y + c) for a, b, c in random.uniform(-2, 2, (3, 3))]
    disc = (np.hypot(x - width / 80, y - height / 80) < 0.6)[..., None]
    samples = np.where(disc, random.integers(0, 256, 3), 128 + 90 * np.stack(waves, -1))
    return (samples + random.normal(0, 4, samples.shape)).clip(0, 255).round().astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("folder", "base", "bits_back"):
        parser.add_argument(name, type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.folder.mkdir(parents=True)
    models = {}
    for kind, path in (("base", args.base), ("bits-back", args.bits_back)):
        models[kind] = Model(checkpoint.parse(path.read_bytes(), path.name))
    said: dict[str, Any] = {}
    for name, model_name, data in _files(models):
        (args.folder / name).write_bytes(data)
        said[name] = {"model": model_name, "bytes": len(data), "images": told(models[model_name], data)}
    (args.folder / "index.json").write_text(json.dumps(said, indent=1) + "\n")


def _files(models: dict[str, Model]) -> Iterator[tuple[str, str, bytes]]:
    base, model = models["base"], models["bits-back"]
    for seed, (method, width, height) in enumerate(_PLAIN):
        recipe = LEARNED[method](lmbda=0.02, **({} if method == "amortized" else {"steps": 100}))
        data = encode(base, [image(width, height, seed)], recipe)[0].outcome.data
        yield f"base-{width}x{height}-{method}.ncb", "base", data
    pixels = image(90, 70, 50)
    plain = Amortized(lmbda=0.02)
    yield "bits-back-90x70-amortized.ncb", "bits-back", encode(model, [pixels], plain)[0].outcome.data
    latents = far_out(base, pixels)
    yield "base-90x70-escapes.ncb", "base", write(base, latents, "amortized", 70, 90)
    yield "bits-back-90x70-escapes.ncb", "bits-back", write(model, far_out(model, pixels), "sga", 70, 90)

    mixed = [image(128, 100, 60), image(64, 64, 61), image(200, 64, 62), image(70, 129, 63)]
    alike = [image(128, 96, 70 + i) for i in range(5)]
    amortized = BitsBack(lmbda=0.02)
    yield "amortized-posteriors.ncbp", "bits-back", _pack(model, mixed, amortized)
    corrected = _pack(model, [*alike[:1], *_corrected(model, amortized)], amortized)
    yield "corrected.ncbp", "bits-back", corrected
    inferred = BitsBackBbvi(lmbda=0.02, bbvi_steps=40, bbvi_learning_rate=0.02)
    names = [name.encode() for name in ("é.png", "b.png", "c d.png", "d.jpeg", "e")]
    named = with_names(_pack(model, alike, inferred, b"bits of something else"), names)
    yield "inferred-named-with-side-information.ncbp", "bits-back", named
    refined = SgaBitsBack(lmbda=0.02, steps=60, bbvi_steps=20, bbvi_learning_rate=0.01)
    yield "refined.ncbp", "bits-back", _pack(model, mixed[::-1], refined)
    yield "partly-plain.ncbp", "bits-back", _partly_plain(model, alike, inferred)


def far_out(model: Model, pixels: Pixels) -> Latents:
    """Latents of an image, some of them outside of every table."""
    latents = model.round(*model.analyse(to_tensor(pixels, model.device)))
    y, z = latents.y.clone(), latents.z.clone()
    y.view(-1)[::17], y.view(-1)[5::31], z.view(-1)[::7] = 4000, -70000, 300
    return Latents(y, z)


def _pack(model: Model, images: list[Pixels], recipe: Packed, side_information: bytes = b"") -> bytes:
    found = [find(model, [pixels], recipe)[0] for pixels in images]
    return encode_pack(model, found, recipe, side_information=side_information).pack.data


def _corrected(model: Model, recipe: Packed) -> Iterator[Pixels]:
    """Two images of whose posteriors a parameter lies so near to a boundary that the pack corrects it."""
    made = (image(128, 64, seed) for seed in range(100, 100_000))
    lists = (pixels for pixels in made if find(model, [pixels], recipe)[0].inferred.corrections)
    return itertools.islice(lists, 2)


def _partly_plain(model: Model, images: list[Pixels], recipe: Packed) -> bytes:
    """A pack whose second and fourth image are coded without bits-back."""
    found = [find(model, [pixels], recipe)[0] for pixels in images]
    items = [
        PackItem(f.inferred, f.method, f.pixels.shape[1], f.pixels.shape[0], plain=i in (1, 3))
        for i, f in enumerate(found)
    ]
    return write_pack(model, items, inference_settings(recipe)).data


if __name__ == "__main__":
    main()
