"""What `benchmarks.gpu` measures."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from ncbatch.codec.allocator import keep_freed_memory
from ncbatch.codec.bits_back.encode import encode_pack, find
from ncbatch.codec.bits_back.pack import PackReader
from ncbatch.codec.encode import FoundLatents, find_latents, finish
from ncbatch.codec.methods import BitsBackBbvi, Sga
from ncbatch.codec.model import fused_gdn, hyperprior, known_answer
from ncbatch.codec.model.checkpoint import Checkpoint, export
from ncbatch.codec.model.exact_hyper_synthesis import ExactHyperSynthesis
from ncbatch.codec.model.hyperprior import Model, to_tensor
from ncbatch.codec.model.transforms import SUBPIXELS
from ncbatch.codec.recipe import PRESETS
from ncbatch.codec.refinement import recorded_step
from ncbatch.codec.refinement.batch import Refinement
from ncbatch.codec.refinement.loop import Target
from ncbatch.codec.refinement.noise import ImageNoise
from ncbatch.errors import NcbatchError, first_line
from ncbatch.images.pixels import Pixels
from ncbatch.models import zoo
from ncbatch.selftest import selftest
from ncbatch.selftest.selftest import picture, steps_per_second, wait_for
from ncbatch.training.hyperprior import MeanScaleHyperprior
from ncbatch.worker.device_health import says_out_of_memory

_LMBDA = 0.01


@dataclass(frozen=True)
class Extent:
    """How much is measured.

    Attributes:
        sizes: N and M of the models.
        batches: images refined together.
        width: of the image.
        height: of the image.
        seconds: for which each speed is measured.
        images: of the synthetic corpus.
        corpus_steps: of their refinement.
        bbvi_steps: of each image's inference under bits-back.
        training: N, M and the crop's side of each training.
        matrix: rows and columns of the product that measures the peak.
    """

    sizes: tuple[tuple[int, int], ...]
    batches: tuple[int, ...]
    width: int
    height: int
    seconds: float
    images: int
    corpus_steps: int
    bbvi_steps: int
    training: tuple[tuple[int, int, int], ...]
    matrix: int


FULL = Extent(
    sizes=((64, 128), (192, 320)), batches=(1, 8, 32, 128), width=768, height=512, seconds=3.0, images=32,
    corpus_steps=300, bbvi_steps=100, training=((64, 128, 128), (192, 192, 256)), matrix=8192,
)  # fmt: skip
QUICK = Extent(
    sizes=((16, 24),), batches=(1, 2), width=128, height=64, seconds=0.05, images=2, corpus_steps=4,
    bbvi_steps=4, training=((16, 24, 64),), matrix=256,
)  # fmt: skip


def measure(device: torch.device, extent: Extent) -> dict[str, Any]:
    """Everything, by name; what cannot be measured has a `problem` in its place."""
    keep_freed_memory()
    report = selftest.run(device)
    found: dict[str, Any] = {
        "device": report.facts,
        "selftest": {name: value for name, value in dataclasses.asdict(report).items() if name != "facts"},
        "extent": dataclasses.asdict(extent),
    }
    checkpoints = [synthetic(n, m) for n, m in extent.sizes]
    found["exact"] = [_exact(checkpoint, device) for checkpoint in checkpoints]
    found["peak_flops"] = _matmul_flops(device, extent.matrix)
    pixels = picture(extent.width, extent.height)
    found["steps"] = [
        row
        for checkpoint in checkpoints
        for row in _steps(checkpoint, device, pixels, extent, found["peak_flops"])
    ]
    found["presets"] = [
        row for checkpoint in checkpoints for row in _presets(checkpoint, device, pixels, found["steps"])
    ]
    found["corpus"] = _noting(lambda: _corpus(Model(checkpoints[0], device), extent))
    found["bits_back"] = _noting(lambda: _bits_back(device, extent))
    trainings = [partial(_training, device, *size, extent.seconds) for size in extent.training]
    found["training"] = [_noting(training) for training in trainings]
    return found


def synthetic(n: int, m: int) -> Checkpoint:
    """A model of these sizes with the weights that a training begins with."""
    torch.manual_seed(0)
    return export(MeanScaleHyperprior(n, m).state_dict(), lmbda=_LMBDA)


def _noting(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What it returns, or what went wrong."""
    try:
        return work()
    except ImportError as error:
        return {"problem": f"{error.name} is missing"}
    except (NcbatchError, RuntimeError) as error:
        if says_out_of_memory(error):
            return {"problem": "out of memory"}
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return {"problem": first_line(error)}


def _exact(checkpoint: Checkpoint, device: torch.device) -> dict[str, Any]:
    """The device's h_s against the CPU's; on the CPU against itself."""
    info = checkpoint.info

    def work() -> dict[str, Any]:
        known_answer.compare(ExactHyperSynthesis(checkpoint.integer_layers(), device), checkpoint)
        return {}

    return {"n": info.n, "m": info.m, **_noting(work)}


def _matmul_flops(device: torch.device, side: int) -> float:
    """The most operations a second that a large matrix product reaches in the loop's type."""
    a = torch.randn(side, side, device=device).to(hyperprior.fast_dtype(device))
    best = 0.0
    for _ in range(8):
        wait_for(device)
        started = time.perf_counter()
        a @ a
        wait_for(device)
        best = max(best, 2 * side**3 / (time.perf_counter() - started))
    return best


LOOPS: dict[str, Callable[[], contextlib.AbstractContextManager[Any]]] = {
    "as shipped": contextlib.nullcontext,
    "g_s in float32": lambda: mock.patch.object(hyperprior, "fast_dtype", lambda device: torch.float32),
    "no CUDA graph": lambda: mock.patch.object(recorded_step.RecordedStep, "enabled", False),
    "GDN by separate operations": lambda: mock.patch.object(fused_gdn.FusedInverseGDN, "enabled", False),
    "12 channels of subpixels": lambda: mock.patch.object(hyperprior.Model, "subpixels", SUBPIXELS),
    "no search for kernels": lambda: mock.patch.object(
        recorded_step, "fastest_kernels", lambda device: contextlib.nullcontext()
    ),
}
"""The loop, with and without its parts."""
_ON_GPUS = (
    "no CUDA graph",
    "no search for kernels",
    "GDN by separate operations",
    "12 channels of subpixels",
)


def _steps(
    checkpoint: Checkpoint, device: torch.device, pixels: Pixels, extent: Extent, peak: float
) -> Iterator[dict[str, Any]]:
    for loop, patched in LOOPS.items():
        if loop in _ON_GPUS and device.type != "cuda":
            continue
        for batch in extent.batches:

            def work(batch: int = batch) -> dict[str, Any]:
                model = Model(checkpoint, device)
                speed = steps_per_second(model, pixels, batch, extent.seconds)
                flops, busy = _one_step(model, pixels, batch)
                return {
                    "steps_per_second": speed,
                    "image_steps_per_second": speed * batch,
                    "flops_per_step": flops,
                    "share_of_peak": speed * flops / peak,
                    "idle_share": None if busy is None else max(1 - busy * speed, 0.0),
                }

            with patched():
                row = _noting(work)
            if device.type == "cuda":
                torch.cuda.empty_cache()
            print(f"{checkpoint.info.n}, batch {batch}, {loop}: {row}", file=sys.stderr, flush=True)
            yield {"n": checkpoint.info.n, "m": checkpoint.info.m, "batch": batch, "loop": loop, **row}


def _refinement(model: Model, pixels: Pixels, batch: int) -> Refinement:
    targets = [Target(pixels.shape[0], pixels.shape[1], ImageNoise(0, bytes([i]))) for i in range(batch)]
    images = to_tensor(pixels, model.device).expand(batch, -1, -1, -1)
    return Refinement(model, images, targets, Sga(lmbda=_LMBDA, steps=10**6, check_every=10**6))


def _one_step(model: Model, pixels: Pixels, batch: int) -> tuple[int, float | None]:
    """Operations of a step's convolutions, and seconds that the device computes in it; None of a CPU."""
    refinement = _refinement(model, pixels, batch)
    with FlopCounterMode(display=False) as counter:
        refinement.advance(1)
    if model.device.type != "cuda":
        return counter.get_total_flops(), None
    refinement.advance(10)
    steps = 10
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        refinement.advance(steps)
        wait_for(model.device)
    microseconds = sum(event.self_device_time_total for event in profile.key_averages())
    return counter.get_total_flops(), microseconds / 1e6 / steps


def _presets(
    checkpoint: Checkpoint, device: torch.device, pixels: Pixels, steps: Sequence[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Seconds for an image at the best batch: its steps and looks by their measured speeds, and finishing."""
    n = checkpoint.info.n
    rows = [row for row in steps if row["n"] == n and row["loop"] == "as shipped" and "problem" not in row]
    if not rows:
        return
    best = max(rows, key=lambda row: float(row["image_steps_per_second"]))
    model = Model(checkpoint, device)
    refinement = _refinement(model, pixels, best["batch"])
    look = _timed(refinement.looks, device) / best["batch"]
    del refinement
    recipe = Sga(lmbda=_LMBDA, steps=2)
    latents = _found(model, [pixels], recipe)[0]
    finishing = _timed(lambda: finish(model, pixels, recipe, latents), device)
    for preset in PRESETS:
        planned = Sga(lmbda=_LMBDA, **Sga.preset(preset))
        refining = planned.steps / best["image_steps_per_second"]
        yield {
            "n": n,
            "preset": preset,
            "batch": best["batch"],
            "extrapolated": True,
            "refinement_seconds": refining + planned.steps / planned.check_every * look,
            "look_seconds": look,
            "finishing_seconds": finishing,
        }


def _found(model: Model, images: Sequence[Pixels], recipe: Sga) -> list[FoundLatents]:
    found = dict(find_latents(model, images, recipe))
    return [latents for _, latents in sorted(found.items()) if isinstance(latents, FoundLatents)]


def _timed(work: Callable[[], object], device: torch.device, times: int = 3) -> float:
    """The median of a few times, after one that does not count."""
    seconds = []
    for _ in range(times + 1):
        wait_for(device)
        started = time.perf_counter()
        work()
        wait_for(device)
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds[1:]))


def _corpus(model: Model, extent: Extent) -> dict[str, Any]:
    """Images of three sizes, finished by threads while the next are refined; nothing is fetched or decoded.

    `benchmarks.idle` has the worker's other stages as well.
    """
    recipe = Sga(lmbda=_LMBDA, steps=extent.corpus_steps)
    sizes = [(extent.width, extent.height), (extent.height, extent.width), (extent.height, extent.height)]
    images = [picture(*sizes[i % 3]) for i in range(extent.images)]
    batch, refining = 8, 0.0
    _found(model, images[:1], Sga(lmbda=_LMBDA, steps=2))
    started = time.perf_counter()
    with ThreadPoolExecutor(4) as pool:
        finished = []
        for size in sizes:
            alike = [image for image in images if image.shape[:2] == size[::-1]]
            for group in (alike[i : i + batch] for i in range(0, len(alike), batch)):
                began = time.perf_counter()
                found = _found(model, group, recipe)
                wait_for(model.device)
                refining += time.perf_counter() - began
                finished += [
                    pool.submit(finish, model, p, recipe, f) for p, f in zip(group, found, strict=True)
                ]
        encoded = [future.result() for future in finished]
    wall = time.perf_counter() - started
    return {
        "images": len(encoded),
        "steps": recipe.steps,
        "batch": batch,
        "seconds": wall,
        "idle_share": 1 - refining / wall,
        "images_per_second": len(encoded) / wall,
    }


def _bits_back(device: torch.device, extent: Extent) -> dict[str, Any]:
    """A pack of three images by the built-in model: how long its decoder takes, inference included."""
    model = Model(zoo.load_builtin("bits-back-0.010"), device)
    recipe = BitsBackBbvi(lmbda=_LMBDA, bbvi_steps=extent.bbvi_steps, bbvi_learning_rate=0.02)
    images = [picture(extent.width, extent.height)] * 3
    data = encode_pack(model, find(model, images, recipe), recipe).pack.data

    def decode() -> None:
        assert len(list(PackReader(model, data, max_pixels=images[0].size).images())) == len(images)

    return {
        "images": len(images),
        "bbvi_steps": extent.bbvi_steps,
        "bytes": len(data),
        "decode_seconds_per_image": _timed(decode, device, 1) / len(images),
    }


def _training(device: torch.device, n: int, m: int, crop: int, seconds: float) -> dict[str, Any]:
    """Steps per second of batches of 8 crops, crops and noise included."""
    from ncbatch.training.images import TrainingImages
    from ncbatch.training.settings import TrainingSettings
    from ncbatch.training.trainer import Trainer

    settings = TrainingSettings(lmbda=_LMBDA, n=n, m=m, crop=crop, steps=10**6)
    images = TrainingImages([picture(768, 512), picture(512, 768)])
    taken, started = 0, 0.0
    for report in Trainer(settings, images, device).run():
        if report.step == 3:
            started = time.perf_counter()
        taken = report.step - 3
        if report.step > 3 and time.perf_counter() - started > seconds:
            break
    elapsed = time.perf_counter() - started
    return {"n": n, "m": m, "crop": crop, "batch": settings.batch_size, "steps_per_second": taken / elapsed}
