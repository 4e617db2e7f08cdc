"""Crops from the middle of photographs, for comparisons that whole photographs are too large for.

    python -m benchmarks.crops PHOTOGRAPHS CROPS                 # CROPS/all, CROPS/search, CROPS/report

What is searched for (settings of presets) is searched for on one half of the photographs and reported on the
other.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from ncbatch.images.read import read_image
from ncbatch.images.write import write_png

HALVES = ("search", "report")


def photographs(folder: Path) -> dict[str, np.ndarray]:
    """By name, in the order of their names."""
    paths = sorted(p for p in folder.iterdir() if p.suffix in (".png", ".jpg"))
    return {p.stem: read_image(p.read_bytes(), alpha="refuse") for p in paths}


def crops(folder: Path, height: int, width: int) -> dict[str, np.ndarray]:
    """One from the middle of each photograph, by its name."""
    return {
        name: _cut(pixels, (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2, height, width)
        for name, pixels in photographs(folder).items()
    }


def many_crops(folder: Path, count: int, height: int, width: int) -> list[np.ndarray]:
    """As many, from one photograph after the other; four, that may overlap, from each at most."""
    found = list(photographs(folder).values())
    if count > 4 * len(found):
        raise SystemExit(f"{len(found)} photographs give {4 * len(found)} crops, not {count}")
    cut = []
    for third in (1, 1), (2, 1), (1, 2), (2, 2):
        for pixels in found:
            top, left = (pixels.shape[0] - height) // 3, (pixels.shape[1] - width) // 3
            cut.append(_cut(pixels, top * third[0], left * third[1], height, width))
    return cut[:count]


def _cut(pixels: np.ndarray, top: int, left: int, height: int, width: int) -> np.ndarray:
    return np.ascontiguousarray(pixels[top : top + height, left : left + width])


def half_of(found: dict[str, np.ndarray], half: str) -> dict[str, np.ndarray]:
    """Every second one."""
    return dict(list(found.items())[HALVES.index(half) :: 2])


def main() -> None:
    """Cuts the crops and writes them as PNG files."""
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
