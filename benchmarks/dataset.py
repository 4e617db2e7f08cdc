"""How fast an encoded run is read as a data set, against JPEGs read through Pillow.

    python -m benchmarks.dataset [--images 8] [--size 128 192] [--rounds 3] [--forms files tar packs]
    python -m benchmarks.dataset --photographs FOLDER --size 512 768 --images 12

The same images, as JPEGs in a folder and as runs made from these by the encoder network alone (decoding takes
as long whatever found the latents), are read by one process with one thread, in turn: epochs of `RunDataset`,
in order, and the JPEGs through Pillow, each to a tensor uint8[3, height, width]. By default the images are
crops of synthetic ones.

The last line is one JSON object: images per second (medians of the rounds), and the bytes of an image.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.crops import crops
from ncbatch.datasets import RunDataset
from ncbatch.metrics.table import read_table
from ncbatch.models.loading import RunModels, keep_model, load_model
from ncbatch.plan.corpus import list_corpus
from ncbatch.plan.request import make_variant
from ncbatch.plan.run import open_run
from ncbatch.plan.spec import RunSpec
from ncbatch.store import Store, StoreOptions, open_store
from ncbatch.worker.unit import run_unit
from ncbatch.worker.workspace import Workspace

Form = Literal["files", "tar", "packs"]
FORMS: tuple[Form, ...] = ("files", "tar", "packs")
OPTIONS = StoreOptions()


def images(args: argparse.Namespace) -> Iterator[np.ndarray]:
    """The images that the command line asks for, again and again where there are too few."""
    height, width = args.size
    if args.photographs is not None:
        found = list(crops(args.photographs, height, width).values())
        yield from (found[n % len(found)] for n in range(args.images))
        return
    random = np.random.default_rng(0)
    for _ in range(args.images):
        coarse = Image.fromarray(random.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
        yield (smooth + random.integers(-6, 7, smooth.shape)).clip(0, 255).astype(np.uint8)


def encoded(corpus: Store, output: Store, form: Form) -> float:
    """Encodes a run of the corpus; bytes of an image."""
    request: dict[str, Any] = {"method": "amortized"}
    if form == "packs":
        request = {"method": "bits-back+bbvi", "preset": "fast"}
    variant = make_variant(request | {"lmbda": 0.01}, OPTIONS)
    spec = RunSpec(corpus=corpus.uri, variants=(variant,), output_format="tar" if form == "tar" else "files")
    assert variant.model is not None and variant.model_digest is not None
    keep_model(output, load_model(variant.model, OPTIONS))
    (unit,) = open_run(spec, list_corpus(corpus), output, lambda *_: 10**12).units
    workspace = Workspace(spec, corpus, output, torch.device("cpu"))
    workspace.models.add(RunModels(output, workspace.device).get(variant.model_digest))
    result = run_unit(workspace, unit, "00000001-1", {})
    assert result.ok == len(unit.images)
    lengths = read_table(output, columns=["length"])["length"].to_pylist()
    return float(sum(lengths)) / len(lengths)


def through_pillow(corpus: Store, keys: list[str]) -> Iterator[Tensor]:
    """The JPEGs of a folder as tensors."""
    for key in keys:
        pixels = np.asarray(Image.open(io.BytesIO(corpus.get(key))).convert("RGB"))
        yield torch.from_numpy(np.array(pixels.transpose(2, 0, 1), order="C"))


def seconds(epoch: Callable[[], Iterable[Any]], count: int) -> float:
    """How long an epoch takes, of so many images."""
    started = time.perf_counter()
    assert sum(1 for _ in epoch()) == count
    return time.perf_counter() - started


def main() -> None:
    """Runs the measurement that the command line asks for."""
    parser = argparse.ArgumentParser(description="a run as a data set against JPEGs through Pillow")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--size", type=int, nargs=2, default=(128, 192), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--photographs", type=Path, help="folder; by default images are synthetic")
    parser.add_argument("--quality", type=int, default=90, help="of the JPEGs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--forms", choices=FORMS, nargs="+", default=list(FORMS[:2]))
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="ncbatch-") as folder:
        corpus = open_store(str(Path(folder) / "jpeg"), create=True)
        for n, pixels in enumerate(images(args)):
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "JPEG", quality=args.quality)
            corpus.put(f"{n:06d}.jpg", file.getvalue())
        infos = list(corpus.list())
        keys = [info.key for info in infos]
        sizes = {"jpeg": sum(info.size for info in infos) / len(infos)}
        epochs: dict[str, Callable[[], Iterable[Any]]] = {"jpeg": lambda: through_pillow(corpus, keys)}
        for form in args.forms:
            output = open_store(str(Path(folder) / form), create=True)
            sizes[form] = encoded(corpus, output, form)
            epochs[form] = RunDataset(output.uri).__iter__
        rates: dict[str, list[float]] = {name: [] for name in epochs}
        for epoch in epochs.values():
            seconds(epoch, args.images)  # loads the model
        for number in range(args.rounds):
            for name, epoch in epochs.items():
                rates[name].append(args.images / seconds(epoch, args.images))
                print(f"round {number + 1}, {name}: {rates[name][-1]:.1f} images/s", flush=True)
    found = {
        "images": args.images,
        "size": list(args.size),
        "images_per_second": {name: round(statistics.median(rate), 2) for name, rate in rates.items()},
        "bytes_per_image": {name: round(size) for name, size in sizes.items()},
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
