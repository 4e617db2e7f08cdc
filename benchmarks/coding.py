"""Entropy coding with coarse parameters against coding with exact ones, and the end of an image's encoding.

    python -m benchmarks.coding [IMAGE ...] [--rounds 9]

Both ways of coding run in this process, in turn, and on one thread, whose processor time is measured:
version 1 against version 2 of `.ncb`, and version 2 against version 4 of `.ncbp`. Times are medians over
images and rounds, in milliseconds. Tables of Gaussians are kept between images, as a worker keeps them;
`first` is with none, as in a process that decodes one file. Latents of a model with M = 320 are made up.
The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ncbatch.codec import ans, bitstream
from ncbatch.codec.encode import FoundLatents, evaluate, finish
from ncbatch.codec.gaussian_tables import coarse, coarse_mean
from ncbatch.codec.measure import ms_ssim
from ncbatch.codec.methods import Sga
from ncbatch.codec.model.hyperprior import Latents, Model, to_tensor
from ncbatch.codec.refinement.latents import round_y
from ncbatch.images.pixels import Pixels
from ncbatch.models import zoo

LMBDA = 0.01

Integers = NDArray[np.int32]


@dataclass(frozen=True)
class Coded:
    """What the coder is given for one image: symbols, standard deviations and, in packs, means."""

    symbols: Integers
    sigma: Integers
    mean: Integers | None = None

    @property
    def coarse(self) -> Coded:
        """The same with coarse parameters."""
        sigma = coarse(self.sigma)
        return Coded(self.symbols, sigma, None if self.mean is None else coarse_mean(self.mean, sigma))

    @property
    def tables(self) -> int:
        """How many Gaussians there are."""
        offset = 0 if self.mean is None else (self.mean + 128) % 256
        return len(np.unique(self.sigma.astype(np.int64) * 256 + offset))


def of_file(model: Model, pixels: Pixels) -> Coded:
    """The amortized latents of an image, as a file codes them."""
    latents = amortized(model, pixels)
    _, sigma = model.coding_parameters(latents.z)
    return Coded(latents.y[0].numpy(), sigma[0].numpy())


def amortized(model: Model, pixels: Pixels) -> Latents:
    """What the encoder network alone gives."""
    return model.round(*model.analyse(to_tensor(pixels, model.device)))


def of_pack(model: Model, pixels: Pixels) -> Coded:
    """The amortized latents of an image, as a pack codes them: on the integers, with the means apart."""
    y, z = model.analyse(to_tensor(pixels, model.device))
    mean, sigma = model.fine_coding_parameters((z * 16).round().to(torch.int32))
    return Coded(round_y(y)[0].numpy(), sigma[0].numpy(), mean[0].numpy())


def of_large_model(seed: int) -> Coded:
    """Symbols under as many scales as a model with M = 320 has for 768x512 pixels."""
    random = np.random.default_rng(seed)
    sigma = np.exp(random.normal(4.6, 1.2, (320, 32, 48))).clip(28, 65535).astype(np.int32)
    return Coded(np.rint(random.normal(size=sigma.shape) * sigma / 256).astype(np.int32), sigma)


@dataclass(frozen=True)
class Timing:
    """Seconds of processor time to push and to pop one image, and the bytes that it takes."""

    push: float
    pop: float
    size: int


def timed(exact: Coded, make_coarse: bool, *, forget: bool = False) -> Timing:
    """Codes an image and takes it off again, rounding of the parameters included.

    Raises:
        RuntimeError: other symbols come out.
    """

    def parameters() -> Coded:
        if forget:
            ans._tables.clear()
        return exact.coarse if make_coarse else exact

    stack = ans.new_coder()
    started = time.process_time()
    coded = parameters()
    ans.push_gaussian(stack, coded.symbols, coded.sigma, coded.mean)
    push = time.process_time() - started
    size = len(ans.payload_of(stack))
    started = time.process_time()
    coded = parameters()
    popped = ans.pop_gaussian(stack, coded.sigma, coded.mean)
    pop = time.process_time() - started
    if not np.array_equal(popped, exact.symbols):
        raise RuntimeError("what was popped is not what was pushed")
    return Timing(push, pop, size)


def compare(images: Sequence[Coded], rounds: int) -> dict[str, dict[str, float]]:
    """Times exact and coarse coding of images, in turn."""
    kinds = {"exact": False, "coarse": True}
    found: dict[str, list[Timing]] = {name: [] for name in kinds}
    first: dict[str, list[Timing]] = {name: [] for name in kinds}
    for _ in range(rounds):
        for name, make_coarse in kinds.items():
            first[name] += [timed(image, make_coarse, forget=True) for image in images]
            for image in images:  # fills the tables again
                timed(image, make_coarse)
            found[name] += [timed(image, make_coarse) for image in images]
    return {
        name: {
            "push_ms": _ms(timing.push for timing in found[name]),
            "pop_ms": _ms(timing.pop for timing in found[name]),
            "first_push_ms": _ms(timing.push for timing in first[name]),
            "first_pop_ms": _ms(timing.pop for timing in first[name]),
            "bytes": sum(timing.size for timing in found[name][: len(images)]),
            "tables": median((image.coarse if make_coarse else image).tables for image in images),
        }
        for name, make_coarse in kinds.items()
    }


def _ms(seconds: Iterable[float]) -> float:
    return round(1000 * median(seconds), 2)


def compare_finishing(model: Model, images: Sequence[Pixels], rounds: int) -> dict[str, float]:
    """Seconds from the latents of an image to its measured file: both encodings coded, decoded and measured
    with exact parameters, as it was done before, against the present way.
    """
    recipe = Sga(lmbda=LMBDA, steps=1)

    def before(pixels: Pixels, found: FoundLatents) -> None:
        for latents in (found.amortized, found.best):
            data = write_exact(model, latents, *pixels.shape[:2])
            measured, _ = evaluate(model, pixels, data, LMBDA)
        ms_ssim(model, pixels, measured.image)

    def now(pixels: Pixels, found: FoundLatents) -> None:
        finish(model, pixels, recipe, found)

    seconds: dict[str, list[float]] = {"before": [], "now": []}
    ways: dict[str, Callable[[Pixels, FoundLatents], None]] = {"before": before, "now": now}
    for pixels in images:
        latents = amortized(model, pixels)
        better = Latents(latents.y - latents.y.sign() * (latents.y.abs() == 1), latents.z)
        for _ in range(rounds):
            for name, way in ways.items():
                started = time.process_time()
                way(pixels, FoundLatents(latents, better, 0.0, 0))
                seconds[name].append(time.process_time() - started)
    return {f"{name}_s": round(median(times), 3) for name, times in seconds.items()}


def write_exact(model: Model, latents: Latents, height: int, width: int) -> bytes:
    """A file of version 1."""
    _, sigma = model.coding_parameters(latents.z)
    stack = ans.new_coder()
    ans.push_gaussian(stack, latents.y[0].numpy(), sigma[0].numpy())
    model.z_tables.push(stack, latents.z[0].numpy())
    digest = bitstream.short_digest(model.digest)
    return bitstream.serialise(
        bitstream.Bitstream("sga", digest, width, height, ans.payload_of(stack), bitstream.EXACT_VERSION)
    )


def main() -> int:
    """Runs the measurement that the command line asks for."""
    parser = argparse.ArgumentParser(description="Entropy coding with coarse and with exact parameters.")
    parser.add_argument("images", nargs="*", type=Path, help="default: scikit-image's astronaut, tiled")
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    torch.set_num_threads(1)
    pixels = [_read(path) for path in args.images] or [_tiled_astronaut()]
    base, posterior = Model(zoo.load_builtin("base-0.010")), Model(zoo.load_builtin("bits-back-0.010"))
    result = {
        "ncb": compare([of_file(base, image) for image in pixels], args.rounds),
        "ncb, M = 320": compare([of_large_model(seed) for seed in range(2)], args.rounds),
        "ncbp": compare([of_pack(posterior, image) for image in pixels], args.rounds),
    }
    print(f"{'':14}{'':8}{'push ms':>9}{'pop ms':>9}{'first':>9}{'first':>9}{'tables':>9}{'bytes':>10}")
    for what, kinds in result.items():
        for name, told in kinds.items():
            times = [told[key] for key in ("push_ms", "pop_ms", "first_push_ms", "first_pop_ms")]
            print(f"{what:14}{name:8}" + "".join(f"{ms:9.1f}" for ms in times), end="")
            print(f"{told['tables']:9.0f}{told['bytes']:10}")
    finishing = compare_finishing(base, pixels, max(args.rounds // 3, 1))
    print(f"finishing an image: {finishing['before_s']:.3f} s before, {finishing['now_s']:.3f} s now")
    sizes = sorted({f"{image.shape[1]}x{image.shape[0]}" for image in pixels})
    facts = {"cpu": torch.backends.cpu.get_cpu_capability(), "images": len(pixels), "sizes": sizes}
    print(json.dumps({**facts, **result, "finishing": finishing}))
    return 0


def _read(path: Path) -> Pixels:
    return np.asarray(Image.open(path).convert("RGB"))


def _tiled_astronaut() -> Pixels:
    import skimage

    source = _read(Path(skimage.__file__).parent / "data" / "astronaut.png")
    return np.tile(source, (1, 2, 1))[:, :768].copy()


if __name__ == "__main__":
    sys.exit(main())
