"""Crops from the middle of photographs, for comparisons that whole photographs are too large for.

    python -m benchmarks.crops PHOTOGRAPHS CROPS                 # CROPS/all, CROPS/search, CROPS/report

What is searched for (settings of presets) is searched for on one half of the photographs and reported on the
other.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from ncbatch.codec.pictures import read_picture, write_png

HALVES = ("search", "report")


def crops(folder: Path, height: int, width: int) -> dict[str, np.ndarray]:
    """By the name of the photograph."""
    found = {}
    for path in sorted(p for p in folder.iterdir() if p.suffix in (".png", ".jpg")):
        pixels = read_picture(path.read_bytes(), alpha="refuse")
        top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
        found[path.stem] = np.ascontiguousarray(pixels[top : top + height, left : left + width])
    return found


def half_of(found: dict[str, np.ndarray], half: str) -> dict[str, np.ndarray]:
    """Every second one."""
    return dict(list(found.items())[HALVES.index(half) :: 2])


def main() -> None:
    parser = argparse.ArgumentParser(description="crops from the middle of photographs")
    parser.add_argument("photographs", type=Path)
    parser.add_argument("crops", type=Path)
    parser.add_argument("--size", type=int, nargs=2, default=(256, 384), metavar=("HEIGHT", "WIDTH"))
    args = parser.parse_args()
    found = crops(args.photographs, *args.size)
    for name, chosen in {"all": found, **{half: half_of(found, half) for half in HALVES}}.items():
        (args.crops / name).mkdir(parents=True, exist_ok=True)
        for stem, pixels in chosen.items():
            (args.crops / name / f"{stem}.png").write_bytes(write_png(pixels))


if __name__ == "__main__":
    main()
