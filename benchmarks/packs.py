"""Packs of crops of photographs: what they cost, from which length on they pay, and what inference buys.

    python -m benchmarks.packs PHOTOGRAPHS --images 32 --size 256 384 --steps 100
    python -m benchmarks.packs PHOTOGRAPHS --images 4 --size 256 384 --steps 100,500,2000,100@0.02

The encoder network's y, as plain files of the same model (mean-centred y, z as a point), and in packs: with
bits-back, and without (z is the mean of the inferred posterior), which tells what bits-back gains from what
inference does. Break-even: the shortest pack that is smaller than its images as files.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.crops import many_crops
from ncbatch.codec.allocator import keep_freed_memory
from ncbatch.codec.bits_back.encode import encode_pack, find, inference_settings
from ncbatch.codec.bits_back.pack import PackItem, PackReader, write_pack
from ncbatch.codec.encode import encode
from ncbatch.codec.methods import Amortized, BitsBack, BitsBackBbvi, Packed
from ncbatch.codec.model.hyperprior import Model
from ncbatch.models import zoo


def measure(model: Model, images: list[np.ndarray], recipe: Packed) -> None:
    """Packs images and prints what they cost, with and without bits-back, and how long it took."""
    found = [find(model, [image], recipe)[0] for image in images]
    started = time.monotonic()
    packed = encode_pack(model, found, recipe)
    encoding = (time.monotonic() - started) / len(images)
    started = time.monotonic()
    assert len(list(PackReader(model, packed.pack.data, max_pixels=10**9).images())) == len(images)
    decoding = (time.monotonic() - started) / len(images)
    coded = [share.coded for share in packed.pack.shares]
    items = [PackItem(f.inferred, f.method, f.pixels.shape[1], f.pixels.shape[0], plain=True) for f in found]
    without = write_pack(model, items, inference_settings(recipe))
    net, without_net = (
        np.array([8 * share.net_bytes for share in pack.shares]) for pack in (packed.pack, without)
    )
    information = np.array([c.bits_y + c.bits_z - (c.bits_back or 0) for c in coded])
    plain = [
        8 * len(encode(model, [image], Amortized(lmbda=recipe.lmbda))[0].outcome.data) for image in images
    ]
    steps, learning_rate = recipe.inference
    rate = f" at {learning_rate:g}" if learning_rate else ""
    print(f"{recipe.method}, {steps} steps{rate}: {net.sum() / 8:.0f} bytes, files {sum(plain) / 8:.0f}")
    if len(images) > 1:
        over = net[1:].sum() / information[1:].sum() - 1
        worst = (net[1:] / information[1:] - 1).max()
        print(f"  after the first image: net over information {over:+.3%}, the worst image {worst:+.3%}")
        for what, others in (("plain files", np.array(plain)), ("the pack without bits-back", without_net)):
            print(f"  against {what} after the first image: {net[1:].sum() / others[1:].sum() - 1:+.2%}")
    gains = np.cumsum(np.array(plain) - net)
    paid = np.flatnonzero(gains > 0)
    print(f"  break-even length: {paid[0] + 1 if len(paid) else f'beyond {len(images)}'}")
    back = [(c.bits_z, c.bits_back) for c in coded if c.bits_back is not None]
    if back:
        lent, returned = np.mean(back, 0) / 8
        print(f"  z of an image: {lent:.0f} bytes, of which {returned:.0f} come back")
    print(f"  {encoding:.2f} s an image to encode and check, {decoding:.2f} s to decode", flush=True)


def main() -> None:
    """Runs the measurement that the command line asks for."""
    parser = argparse.ArgumentParser(description="packs measured")
    parser.add_argument("photographs", type=Path)
    parser.add_argument("--model", default="bits-back-0.010")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--size", type=int, nargs=2, default=(256, 384), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--steps", default="300", help="of inference, several by commas; 100@0.02: at a rate")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    model = Model(zoo.load_builtin(args.model))
    lmbda = model.info.lmbda
    images = many_crops(args.photographs, args.images, *args.size)
    measure(model, images, BitsBack(lmbda=lmbda))
    for word in args.steps.split(","):
        steps, _, rate = word.partition("@")
        fields = {"bbvi_steps": int(steps), "bbvi_learning_rate": float(rate or 3e-3)}
        measure(model, images, BitsBackBbvi(lmbda=lmbda, **fields))


if __name__ == "__main__":
    main()
