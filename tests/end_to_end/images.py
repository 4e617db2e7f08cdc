"""Tiny images that compress like photographs, and broken ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo


def make_image(seed: int, side: int = 64) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC)


def save_image(path: Path, seed: int, side: int = 64, fault: str | None = None) -> None:
    """Writes a PNG. fault: what the saboteur does to the process that opens it: "kill", "hang", "break"."""
    path.parent.mkdir(parents=True, exist_ok=True)
    notes = PngInfo()
    if fault:
        notes.add_text("Comment", f"ncbatch-test:{fault}")
    make_image(seed, side).save(path, pnginfo=notes)


def save_images(folder: Path, count: int, side: int = 64) -> list[str]:
    """Writes `count` PNGs and returns their keys."""
    keys = [f"{n:03d}.png" for n in range(count)]
    for n, key in enumerate(keys):
        save_image(folder / key, n, side)
    return keys
