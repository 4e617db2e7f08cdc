"""Refinement loop against a straightforward one: steps per second and where both arrive.

    python benchmarks/refinement_speed.py [IMAGE] [--steps 200]

The straightforward loop is CompressAI's modules (extra `zoo`) as they are: float32, autograd on everything,
weights included, the textbook Gumbel-softmax over a stacked pair of candidates. Both run in this process, a
block of steps in turn, since absolute times on shared machines mean nothing.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from compressai.models import MeanScaleHyperprior
from PIL import Image
from torch import Tensor

from ncbatch.codec.allocator import keep_freed_memory
from ncbatch.codec.encode import evaluate, write
from ncbatch.codec.methods import Sga
from ncbatch.codec.model.checkpoint import Checkpoint
from ncbatch.codec.model.hyperprior import Latents, Model, to_tensor
from ncbatch.codec.refinement.batch import Refinement
from ncbatch.codec.refinement.loop import Target
from ncbatch.codec.refinement.noise import ImageNoise
from ncbatch.models import zoo

LMBDA = 0.01


class StraightforwardLoop:
    """What one would write first."""

    def __init__(self, checkpoint: Checkpoint, image: Tensor, steps: int) -> None:
        self._network = MeanScaleHyperprior(checkpoint.info.n, checkpoint.info.m)
        # The class's own method also wants the coder's buffers, which nothing here uses.
        torch.nn.Module.load_state_dict(self._network, checkpoint.state_dict(), strict=False)
        self._image, self._tau, self._step = image, Sga(lmbda=LMBDA, steps=steps).tau, 0
        with torch.no_grad():
            y = self._network.g_a(image)
            z = self._network.h_a(y)
        self.y, self.z = y.requires_grad_(), z.requires_grad_()
        self._adam = torch.optim.Adam([self.y, self.z], lr=5e-3)

    def advance(self, steps: int) -> None:
        """Takes some steps of Adam."""
        for _ in range(steps):
            self._adam.zero_grad()
            self._loss().backward()
            self._adam.step()
            self._step += 1

    def _relaxed(self, values: Tensor) -> Tensor:
        tau = self._tau(self._step)
        floor, ceiling = torch.floor(values), torch.ceil(values)
        down = -torch.atanh(torch.clamp(values - floor, -1 + 1e-5, 1 - 1e-5)) / tau
        up = -torch.atanh(torch.clamp(ceiling - values, -1 + 1e-5, 1 - 1e-5)) / tau
        logits = torch.stack([down, up], -1)
        sample = torch.nn.functional.gumbel_softmax(logits, tau=tau)
        return (torch.stack([floor, ceiling], -1) * sample).sum(-1)

    def _loss(self) -> Tensor:
        network = self._network
        medians = network.entropy_bottleneck._get_medians().reshape(1, -1, 1, 1)
        z = self._relaxed(self.z - medians) + medians
        scales, means = network.h_s(z).chunk(2, 1)
        y = self._relaxed(self.y - means) + means
        # Called as modules the entropy models would round; the likelihoods of the relaxed values are wanted.
        z_likelihoods = self._z_likelihood(z)
        y_likelihoods = network.gaussian_conditional._likelihood(y, scales.clamp_min(0.11), means)
        bits = -sum(torch.log2(p.clamp_min(1e-9)).sum() for p in (y_likelihoods, z_likelihoods))
        distortion = (network.g_s(y) - self._image).square().sum()
        return bits + LMBDA * 255**2 * distortion / 3

    def _z_likelihood(self, z: Tensor) -> Tensor:
        channels = z.transpose(0, 1).reshape(z.shape[1], 1, -1)
        return self._network.entropy_bottleneck._likelihood(channels)[0]


def rd_loss(model: Model, pixels: np.ndarray, latents: Latents) -> float:
    """Of real bytes and the 8-bit reconstruction."""
    data = write(model, latents, "sga", *pixels.shape[:2])
    return evaluate(model, pixels, data, LMBDA)[1].loss


def compare(pixels: np.ndarray, steps: int, block: int) -> dict[str, float]:
    """Runs both loops to the end, `block` steps of each in turn; seconds per step and final R-D losses."""
    checkpoint = zoo.load_builtin("base-0.010")
    model = Model(checkpoint)
    image = to_tensor(pixels, model.device)
    target = Target(pixels.shape[0], pixels.shape[1], ImageNoise(0, b"benchmark"))
    ours = Refinement(model, image, [target], Sga(lmbda=LMBDA, steps=steps))
    torch.manual_seed(0)
    plain = StraightforwardLoop(checkpoint, image, steps)
    seconds: dict[str, list[float]] = {"ours": [], "plain": []}
    for _ in range(steps // block):
        for name, loop in (("ours", ours), ("plain", plain)):
            started = time.perf_counter()
            loop.advance(block)
            seconds[name].append((time.perf_counter() - started) / block)
    # The first block pays for warming up; of the others the median forgives a neighbour on the machine.
    ours_step, plain_step = (float(np.median(seconds[name][1:])) for name in ("ours", "plain"))
    return {
        "ours_seconds_per_step": ours_step,
        "plain_seconds_per_step": plain_step,
        "speedup": plain_step / ours_step,
        "amortized_rd_loss": rd_loss(model, pixels, ours.amortized),
        "ours_rd_loss": rd_loss(model, pixels, ours.best),
        "plain_rd_loss": rd_loss(model, pixels, model.round(plain.y.detach(), plain.z.detach())),
    }


def main() -> int:
    """Runs the measurement that the command line asks for."""
    parser = argparse.ArgumentParser(description="Our refinement loop against a straightforward one.")
    parser.add_argument("image", nargs="?", type=Path, help="default: scikit-image's astronaut, 512x512")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--block", type=int, default=20, help="steps of each loop in turn")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--keep-memory", action="store_true", help="set the allocator as workers do, for both loops"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.keep_memory:
        keep_freed_memory()
    if args.image is None:
        import skimage

        args.image = Path(skimage.__file__).parent / "data" / "astronaut.png"
    pixels = np.asarray(Image.open(args.image).convert("RGB"))
    result = compare(pixels, args.steps, args.block)
    for name, value in result.items():
        print(f"{name:24} {value:.5g}")
    difference = result["ours_rd_loss"] / result["plain_rd_loss"] - 1
    print(f"{'rd_loss difference':24} {100 * difference:+.3f} %")
    return 0


if __name__ == "__main__":
    sys.exit(main())
