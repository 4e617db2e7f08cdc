"""One command that measures ncbatch on a GPU: whether it is right there, and how fast.

    python -m benchmarks.gpu --out gpu.json                       # a few minutes on a data-centre GPU
    python -m benchmarks.gpu --out cpu.json --device cpu --quick  # everything once, under a minute

It runs from a plain checkout, without Ray, CompressAI, a store or a network. Speed is measured with synthetic
weights of the sizes of CompressAI's zoo and on a synthetic image of 768x512. The first lines that are printed
are a table for docs/performance.md.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

_NEEDED = {
    "torch": "torch",
    "numpy": "numpy",
    "constriction": "constriction",
    "safetensors": "safetensors",
    "pydantic": "pydantic",
    "pytorch_msssim": "pytorch-msssim",
    "typing_extensions": "typing-extensions",
}
"""Modules, and the names that pip knows them by."""


def table(found: dict[str, Any]) -> str:
    """The measurements as Markdown."""
    facts = found["device"]
    versions = ", ".join(
        f"{name} {facts[name]}" for name in ("torch", "cuda", "cudnn", "cublas") if name in facts
    )
    lines = [f"### {facts['name']} ({facts['capability']}; {versions})", ""]
    lines.append(f"Self-test: {found['selftest']['problem'] or 'everything is as it has to be'}.")
    lines += ["", "| N | M | batch | loop | steps/s | images x steps/s | of the peak | idle in the loop |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for row in found["steps"]:
        if "problem" in row:
            figures = f"{row['problem']} | - | - | -"
        else:
            share = "-" if row["share_of_peak"] is None else f"{row['share_of_peak']:.1%}"
            idle = "-" if row["idle_share"] is None else f"{row['idle_share']:.0%}"
            figures = (
                f"{row['steps_per_second']:.4g} | {row['image_steps_per_second']:.4g} | {share} | {idle}"
            )
        lines.append(f"| {row['n']} | {row['m']} | {row['batch']} | {row['loop']} | {figures} |")
    lines += ["", "| N | preset | refinement of an image | finishing it |", "|---|---|---|---|"]
    for row in found["presets"]:
        lines.append(
            f"| {row['n']} | {row['preset']} | {row['refinement_seconds']:.3g} s (extrapolated) "
            f"| {row['finishing_seconds']:.3g} s |"
        )
    return "\n".join(lines)


def main() -> int:
    """Runs the measurement that the command line asks for."""
    parser = argparse.ArgumentParser(description="Measures ncbatch on a GPU.")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="small and short: shows only that it runs")
    args = parser.parse_args()
    missing = [package for module, package in _NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        parser.error(f"these packages are missing: pip install {' '.join(missing)}")
    import torch

    from benchmarks.gpu_measurements import FULL, QUICK, measure

    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no GPU here; --device cpu --quick shows that the measurement runs")
    found = measure(torch.device(args.device), QUICK if args.quick else FULL)
    args.out.write_text(json.dumps(found, indent=1) + "\n")
    print(table(found))
    return 1 if found["selftest"]["problem"] else 0


if __name__ == "__main__":
    sys.exit(main())
