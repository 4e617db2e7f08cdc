"""How full the batches of a corpus of mixed sizes become: how many images each has, and how much of its
tensors they fill.

    python -m benchmarks.batch_fill [--images 200] [--shortest 240] [--longest 900] [--megapixels 4]

Sizes are drawn by chance: the longer side evenly on a logarithmic scale, common proportions give or take a
twentieth, three of five images lying. They pass through the worker's own code, which orders them and
forms batches; in the place of refining, it is noted what a batch would take. Once only images of one padded
shape go together, and once those of one canvas. A batch has a power of two of images, at most as many as are
the given megapixels: about what a large GPU may find by itself. The last line is one JSON object: of each,
the number of different tensors, of batches, images per batch, and the share of the tensors' points that are
images' own, without any padding. An image with a side over 896 pixels keeps its shape.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from ncbatch.codec.encode import padded_shape
from ncbatch.codec.refinement.canvas import Shape, canvas, shared
from ncbatch.plan.units import PlannedImage
from ncbatch.worker.batches import Batches, Refill
from ncbatch.worker.batching import FixedBatches
from ncbatch.worker.fetch import FetchedImage
from ncbatch.worker.waiting import Canvas, by_shape, own_shape

_PROPORTIONS = (1.0, 5 / 4, 4 / 3, 3 / 2, 16 / 9)


class ByPixels(FixedBatches):
    """Batches of about so many pixels."""

    def __init__(self, pixels: int) -> None:
        super().__init__(1)
        self._pixels = pixels

    def size(self, shape: Shape) -> int:
        """A power of two."""
        return 1 << int(math.log2(max(self._pixels // (shape[0] * shape[1]), 1)))


def corpus(count: int, shortest: int, longest: int, seed: int = 0) -> Iterator[FetchedImage]:
    """Images of zeros."""
    random = np.random.default_rng(seed)
    for n in range(count):
        side = round(math.exp(random.uniform(math.log(shortest), math.log(longest))))
        other = round(side / (random.choice(_PROPORTIONS) * random.uniform(1, 1.05)))
        height, width = (other, side) if random.random() < 0.6 else (side, other)
        pixels = np.broadcast_to(np.uint8(0), (height, width, 3))
        yield FetchedImage(PlannedImage(f"{n}.png", "e", 1, width, height), pixels)


def filled(images: Sequence[FetchedImage], pixels: int, groups: Canvas) -> dict[str, float]:
    """What the batches are like if images of one group go together."""
    by_key = {job.image.key: job for job in images}
    jobs = [by_key[image.key] for image in by_shape([job.image for job in images], groups)]
    tensors: list[tuple[Shape, int]] = []

    def note(batch: Sequence[FetchedImage], refill: Refill) -> Iterator[tuple[int, str]]:
        tensors.append((shared([padded_shape(job.pixels) for job in batch]), len(batch)))
        yield from ((number, job.image.key) for number, job in enumerate(batch))

    batches: Batches[str] = Batches(ByPixels(pixels), torch.device("cpu"), note, canvas=groups)
    assert len(list(batches.done(iter(jobs)))) == len(images)
    return {
        "tensor_sizes": len(set(tensors)),
        "batches": len(tensors),
        "images_per_batch": round(len(images) / len(tensors), 2),
        "filled": round(sum(job.area for job in images) / sum(h * w * n for (h, w), n in tensors), 3),
    }


def main() -> int:
    """Runs the measurement that the command line asks for."""
    parser = argparse.ArgumentParser(description="How full batches of a mixed corpus become.")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--shortest", type=int, default=240, help="longer side in pixels, at least")
    parser.add_argument("--longest", type=int, default=900, help="and at most")
    parser.add_argument("--megapixels", type=float, default=4.0, help="of a batch")
    args = parser.parse_args()
    images, pixels = list(corpus(args.images, args.shortest, args.longest)), round(args.megapixels * 1e6)
    found = {
        name: filled(images, pixels, groups) for name, groups in (("shape", own_shape), ("canvas", canvas))
    }
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
