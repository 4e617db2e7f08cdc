"""The built-in ladder: takes trained models over into the package, measures them, and writes the tables.

    python -m benchmarks.ladder PHOTOGRAPHS                      # measures what is built in
    python -m benchmarks.ladder PHOTOGRAPHS --trained models/    # first takes over what was trained there

Amortized encodings, real bytes, decoded again (`encode` compares what it decodes with what it coded).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from ncbatch.codec.encode import encode
from ncbatch.codec.methods import Amortized
from ncbatch.codec.model.checkpoint import parse
from ncbatch.codec.model.hyperprior import Model
from ncbatch.images.read import read_image
from ncbatch.models import catalog, zoo
from ncbatch.models.catalog import Facts, Measured
from ncbatch.report.bd_rate import Curve, bd_rate
from ncbatch.report.errors import NoOverlapError
from ncbatch.report.published import curves, published_points
from ncbatch.training.session import load_state

ROOT = Path(__file__).resolve().parents[1]
MODELS, PAGE = ROOT / "ncbatch" / "models", ROOT / "docs" / "ladder.md"
CLASSICAL = ("jpeg", "webp", "bpg-4:4:4")
REFERENCES = (*CLASSICAL, "base-hyperprior")
TRAINING = (
    "They were trained by these commands; the first walk started from the `base-0.010` that the package had",
    "before:",
    "",
    "    ncbatch train BSDS500 --ladder --kind base --out models/ \\",
    "        --steps 14000 --warm-steps 2500 --start-from base-0.010",
    "    ncbatch train BSDS500 --lmbda L --kind bits-back --out models/bits-back-L \\",
    "        --steps 2000 --start-from models/base-L/model.safetensors",
)


def take_over(trained: Path, facts: dict[str, Facts]) -> None:
    """Copies finished models into the package and notes how they were trained."""
    names = {}
    for folder in sorted(trained.iterdir()):
        if (folder / "model.safetensors").exists():
            names[parse((folder / "model.safetensors").read_bytes(), folder.name).digest] = folder
    origins = {fact.digest: name for name, fact in facts.items()}
    origins |= {digest: folder.name for digest, folder in names.items()}
    for digest, folder in names.items():
        state = load_state((folder / "state.pt").read_bytes(), str(folder))
        if state["step"] < state["settings"]["steps"]:
            print(f"{folder.name} is not trained yet; left out")
            continue
        log = pq.read_table(folder / "log.parquet").to_pydict()
        seconds = np.diff([0, *log["step"]]) / np.array(log["steps_per_second"])
        start = state["settings"]["start_from"]
        facts[folder.name] = Facts(
            digest=digest,
            steps=state["step"],
            seconds=float(seconds.sum()),
            start_from=origins.get(start, "another checkpoint") if start else "",
        )
        (MODELS / f"{folder.name}.safetensors").write_bytes((folder / "model.safetensors").read_bytes())


def write_facts(facts: dict[str, Facts]) -> None:
    """Writes what is known of the built-in models into the package."""
    content = {name: fact.model_dump() for name, fact in facts.items()}
    (MODELS / catalog.FACTS).write_text(json.dumps(content, indent=1) + "\n")


def measure(name: str, photographs: list[Path]) -> Measured:
    """Means over the photographs of one model's amortized encodings."""
    model = Model(zoo.load_builtin(name), torch.device("cpu"))
    recipe = Amortized(lmbda=catalog.builtin_models()[name])
    encoded = [encode(model, [read_image(p.read_bytes(), alpha="refuse")], recipe)[0] for p in photographs]
    outcomes = [result.outcome for result in encoded]
    bpps = [len(e.outcome.data) * 8 / (e.width * e.height) for e in encoded]
    return Measured(
        photographs=f"{len(photographs)} of {photographs[0].parent.name}",
        bpp=float(np.mean(bpps)),
        psnr=float(np.mean([o.psnr for o in outcomes])),
        rd_loss=float(np.mean([o.loss for o in outcomes])),
    )


def page(facts: dict[str, Facts]) -> str:
    """docs/ladder.md."""
    first = next(iter(facts.values()))
    measured = first.measured.photographs if first.measured else "-"
    lines = [
        "# The built-in models",
        "",
        "Written by `python -m benchmarks.ladder PHOTOGRAPHS`. The models were trained by `ncbatch train` on",
        "the 500 images of BSDS500 (8 of them held out), with 128x128 crops in batches of 8, on two cores",
        f"beside other work. They were measured on {measured}, amortized, with real bytes; the R-D loss is",
        "bpp + lmbda * MSE. The models of the kind bits-back are measured as plain files, which is not what",
        "they are for.",
        "",
        "| model | N | M | steps | trained for | started from | bpp | PSNR dB | R-D loss |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, fact in facts.items():
        m, info = fact.measured, zoo.load_builtin(name).info
        figures = f"{m.bpp:.3f} | {m.psnr:.2f} | {m.rd_loss:.4f}" if m else "- | - | -"
        training = f"{fact.steps:,} | {fact.seconds / 60:.0f} min | {fact.start_from}"
        lines.append(f"| `{name}` | {info.n} | {info.m} | {training} | {figures} |")
    return "\n".join([*lines, "", *TRAINING, "", *_bd_rates(facts), "", *_at_equal_rates(facts), ""])


def _base_curve(facts: dict[str, Facts]) -> Curve:
    measured = [f.measured for name, f in facts.items() if name.startswith("base-") and f.measured]
    return Curve("ncbatch amortized", [m.bpp for m in measured], [m.psnr for m in measured])


def _bd_rates(facts: dict[str, Facts]) -> list[str]:
    ours, published = _base_curve(facts), curves(published_points(), "kodak")
    authors = published["base-hyperprior"]
    lines = [
        "BD-rate (PCHIP of ln rate over the common PSNR range, negative is better) of the base ladder",
        "against published curves, which are means over all 24 images of Kodak. The base model of the",
        "paper's authors has N = 192 and was trained for 2 million steps.",
        "",
        "| against | the built-in ladder | the authors' base model |",
        "|---|---|---|",
    ]
    for name in REFERENCES:
        try:
            here = f"{100 * bd_rate(published[name], ours):+.1f} %"
        except NoOverlapError as error:
            here = str(error)
        theirs = "" if name == "base-hyperprior" else f"{100 * bd_rate(published[name], authors):+.1f} %"
        lines.append(f"| {name} | {here} | {theirs} |")
    return lines


def _at_equal_rates(facts: dict[str, Facts]) -> list[str]:
    """PSNR above the classical codecs' at each model's own rate, their curves interpolated over ln rate."""
    published = curves(published_points(), "kodak")
    lines = [
        "By how much the PSNR of the base models exceeds that of a codec at the same rate, which is",
        "interpolated over ln rate:",
        "",
        "| bpp | " + " | ".join(CLASSICAL) + " |",
        "|---|" + "---|" * len(CLASSICAL),
    ]
    ours = _base_curve(facts)
    for bpp, psnr in zip(ours.rate, ours.quality, strict=True):
        cells = []
        for name in CLASSICAL:
            rates, levels = np.array(
                sorted(zip(published[name].rate, published[name].quality, strict=True))
            ).T
            level = np.interp(np.log(bpp), np.log(rates), levels, left=np.nan, right=np.nan)
            cells.append("not published" if np.isnan(level) else f"{psnr - level:+.2f} dB")
        lines.append(f"| {bpp:.3f} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Takes over trained models if asked to, measures all of them, and writes the page."""
    parser = argparse.ArgumentParser(description="the built-in ladder, measured")
    parser.add_argument("photographs", type=Path)
    parser.add_argument("--trained", type=Path, help="the --out of `ncbatch train --ladder`")
    args = parser.parse_args()
    facts = catalog.builtin_facts()
    if args.trained:
        take_over(args.trained, facts)
        write_facts(facts)
    photographs = sorted(p for p in args.photographs.iterdir() if p.suffix in (".png", ".jpg"))
    for name in catalog.builtin_models():
        if name in facts:
            measured = measure(name, photographs)
            facts[name] = facts[name].model_copy(update={"measured": measured})
            print(f"{name}: {measured.bpp:.3f} bpp, {measured.psnr:.2f} dB, R-D loss {measured.rd_loss:.4f}")
    facts = {name: facts[name] for name in catalog.builtin_models() if name in facts}
    if not facts:
        parser.error("nothing is known of how the built-in models were trained; give --trained")
    write_facts(facts)
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(facts))


if __name__ == "__main__":
    main()
