"""docs/methods.md and docs/bits-back.md, each from the runs that it names.

python -m benchmarks.crops PHOTOGRAPHS CROPS
ncbatch encode CROPS/all RUNS/methods --spec benchmarks/methods.yaml
ncbatch encode CROPS/report RUNS/presets --spec benchmarks/presets.yaml
ncbatch encode CROPS/all RUNS/bits-back --spec benchmarks/bits-back.yaml --unit-seconds 3600
ncbatch encode CROPS/all RUNS/inference --spec benchmarks/inference.yaml --unit-seconds 3600
ncbatch encode CROPS/all RUNS/bits-back-fast --spec benchmarks/bits-back-fast.yaml --unit-seconds 3600
python -m benchmarks.packs PHOTOGRAPHS --images 32 --steps 100@0.02 > RUNS/packs32.txt
python -m benchmarks.packs PHOTOGRAPHS --images 32 --steps 100@0.02 --model bits-back-0.0025 > RUNS/low.txt
python -m benchmarks.packs PHOTOGRAPHS --images 32 --size 128 128 --steps 100@0.02 > RUNS/small.txt
python -m benchmarks.packs PHOTOGRAPHS --images 4 --steps 100,500,2000,50@0.03,100@0.02 > RUNS/steps.txt
python -m benchmarks.tables RUNS

A page is written when all of its runs are there.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ncbatch.codec.recipe import InferringRecipe
from ncbatch.metrics.query import query
from ncbatch.plan.spec import Variant, read_run
from ncbatch.report.evaluation import Evaluation, evaluate
from ncbatch.report.series import Means
from ncbatch.report.tables import bd_table
from ncbatch.store import Store, open_store

DOCS = Path(__file__).resolve().parents[1] / "docs"

METHODS_TEXT = """
{images} crops of 384x256, the built-in base models, real bytes. Every refinement has the paper's settings,
scaled to its number of steps. Saved: how much lower the R-D loss (bpp + lmbda * MSE) is than that of the
amortized encoding.
"""
PRESETS_TEXT = """
On the {images} crops that the settings were not searched on. Saving: of the R-D loss, against the amortized
encoding. Share: of what the paper's settings save.
"""
BITS_BACK_TEXT = """
{images} crops of 384x256, real bytes. The paper's M1 is `sga` with the base models, without bits-back.
`bits-back` (A6) and `bits-back+bbvi` (A5) code the encoder network's y; `sga+bits-back` (M2) refines y and
the posterior together. The rows of `sga` with the bits-back models, as plain files, show how much of M2's
gain comes from these models, which were trained longer, and not from bits-back. Preset: the settings of the
refinement, which are the paper's where nothing is said. Inference: its steps, which decoding repeats; 150
steps have a learning rate of 0.01, 2000 steps one of 0.003, 100 steps one of 0.02. bpp is net: the bytes of a
pack, shared among its images by what each of them cost.
"""
PACKS_TEXT = """
Of the packs: the bytes written over the information content; the bits of z as a share of those of y, and how
much of them comes back; and the longest decoding of an image, in the worker that made it.
"""
PACKS = """
select variant, 100 * (sum(bpp * width * height) / sum(information_bpp * width * height) - 1) as over,
       max(decode_seconds) filter (bits_back is not null) as decode, avg(bits_z / bits_y) as z_share,
       avg(bits_back / bits_z) as back
from metrics where status = 'ok' group by variant order by variant
"""

BITS_BACK_RUNS = ("bits-back", "inference", "bits-back-fast")

PRINTED = {
    "packs32.txt": "32 crops of 384x256, with the model `bits-back-0.010` (`python -m benchmarks.packs "
    "PHOTOGRAPHS --images 32 --steps 100@0.02`). The information content is that of the z that was drawn, by "
    "the density of q.",
    "low.txt": "The same with the model `bits-back-0.0025`.",
    "small.txt": "32 crops of 128x128 (`... --images 32 --size 128 128 --steps 100@0.02`). Here an image's "
    "entry and checksums, which take 13 bytes, and its corrections weigh more.",
    "steps.txt": "What more steps of inference gain, and what a larger learning rate does, on four crops of "
    "384x256 (`... --images 4 --steps 100,500,2000,50@0.03,100@0.02`).",
}

METHODS = ("amortized", "sga", "map", "ste", "uniform-noise", "deterministic-annealing")


def methods(run: Store) -> Iterator[str]:
    """Methods at equal steps, one longer SGA, and BD-rates against the amortized encodings."""
    evaluation = evaluate(run)
    own = [m for m in evaluation.means if m.method in METHODS and "-at-" not in m.variant]
    yield from _head(
        "Methods",
        METHODS_TEXT.format(images=evaluation.means[0].images),
        "ncbatch encode CROPS/all RUNS/methods --spec benchmarks/methods.yaml",
    )
    yield from _by_rate(own, key=lambda m: (m.steps or 0, METHODS.index(m.method)))
    yield from (
        "",
        "BD-rate (PCHIP of ln rate over the common PSNR range, negative is better) against `amortized`:",
    )
    yield from _bd_rates(evaluation, run)
    yield from (
        "",
        "One model (`base-0.010`), refined by SGA for other trade-offs than it was trained for:",
        "",
    )
    at = [m for m in evaluation.means if "-at-" in m.variant or m.variant == "sga-0.01"]
    yield from _table(
        ("lmbda", "bpp", "PSNR dB"),
        [(f"{m.lmbda:g}", f"{m.bpp:.4f}", f"{m.psnr:.2f}") for m in sorted(at, key=lambda m: m.lmbda or 0)],
    )


def presets(run: Store) -> Iterator[str]:
    """The section that compares presets."""
    evaluation = evaluate(run)
    yield from _head(
        "Presets",
        PRESETS_TEXT.format(images=evaluation.means[0].images),
        "ncbatch encode CROPS/report RUNS/presets --spec benchmarks/presets.yaml",
    )
    paper = {m.lmbda: m.saved_percent for m in evaluation.means if m.variant.startswith("paper")}
    rows = []
    for m in sorted(evaluation.means, key=lambda m: (m.lmbda or 0, m.variant)):
        saved, whole = m.saved_percent, paper[m.lmbda]
        assert saved is not None and whole is not None
        preset = m.variant.rpartition("-")[0]
        seconds = f"{m.device_seconds:.1f}" if m.device_seconds is not None else ""
        rows.append(
            (f"{m.lmbda:g}", preset, str(m.steps), f"{saved:.2f} %", f"{100 * saved / whole:.1f} %", seconds)
        )
    yield from _table(("lmbda", "preset", "steps", "saving", "share", "s a crop, one core"), rows)


def bits_back(runs: Sequence[Store]) -> Iterator[str]:
    """The section that compares methods with and without bits-back, and their packs."""
    order = ("amortized", "sga", "bits-back", "bits-back+bbvi", "sga+bits-back")
    methods, packs = [], []
    for run in runs:
        spec = read_run(run).spec
        for m in evaluate(run).means:
            steps = _inference(spec.variant(m.variant))
            model = (m.model or "").rpartition("-")[0]
            fast = "fast" if m.variant.startswith("fast") else ""
            numbers = (f"{m.bpp:.4f}", f"{m.psnr:.2f}", f"{m.rd_loss:.4f}", model)
            key = (m.lmbda, fast, order.index(m.method), model, int(steps or 0))
            methods.append((key, (f"{m.lmbda:g}", fast, m.method, str(m.steps), steps, *numbers)))
        for p in query(run, PACKS).to_pylist():
            if p["back"] is not None:
                steps = _inference(spec.variant(p["variant"]))
                shares = (f"{p['over']:+.2f} %", f"{p['z_share']:.1%}", f"{p['back']:.0%}")
                packs.append(
                    ((p["variant"], int(steps or 0)), (p["variant"], steps, *shares, f"{p['decode']:.1f} s"))
                )
    yield from _head(
        "Methods",
        BITS_BACK_TEXT.format(images=evaluate(runs[0]).means[0].images),
        *(
            f"ncbatch encode CROPS/all RUNS/{name} --spec benchmarks/{name}.yaml --unit-seconds 3600"
            for name in BITS_BACK_RUNS
        ),
    )
    columns = ("lmbda", "preset", "method", "steps", "inference", "bpp", "PSNR dB", "R-D loss", "models")
    yield from _table(columns, [row for _, row in sorted(methods)])
    yield PACKS_TEXT
    yield from _table(
        ("variant", "inference", "over", "z / y", "back", "decoding"), [row for _, row in sorted(packs)]
    )


def _inference(variant: Variant) -> str:
    """Steps of a variant's inference, or nothing."""
    recipe = variant.recipe
    return str(recipe.bbvi_steps) if isinstance(recipe, InferringRecipe) and recipe.bbvi_steps else ""


def _head(title: str, text: str, *commands: str) -> Iterator[str]:
    yield from ("", f"## {title}", text, *(f"    {command}" for command in commands), "")


def _by_rate(means: list[Means], key: Callable[[Means], object]) -> Iterator[str]:
    groups: dict[float, list[Means]] = defaultdict(list)
    for m in means:
        groups[m.lmbda or 0].append(m)
    rows = []
    for lmbda in sorted(groups):
        for m in sorted(groups[lmbda], key=key):  # type: ignore[arg-type]
            row = [f"{lmbda:g}", m.method, str(m.steps), f"{m.bpp:.4f}", f"{m.psnr:.2f}", f"{m.rd_loss:.4f}"]
            rows.append((*row, f"{m.saved_percent:.2f} %"))
    columns = ("lmbda", "method", "steps", "bpp", "PSNR dB", "R-D loss", "saved")
    yield from _table(columns, rows)


def _bd_rates(evaluation: Evaluation, run: Store) -> Iterator[str]:
    table = bd_table(evaluation, [evaluation.curve("amortized")])
    yield ""
    yield from _table(
        ("series", "BD-rate"),
        [(row[0], f"{row[2]:+.2f} %" if row[2] is not None else row[4]) for row in table.rows],
    )


def _table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield "|" + "---|" * len(columns)
    for row in rows:
        yield f"| {' | '.join(row)} |"


def printed(runs: Path) -> Iterator[str]:
    """What `benchmarks.packs` printed."""
    for name, text in PRINTED.items():
        yield from ("", text, "", "```", (runs / name).read_text().strip(), "```")


def write(page: str, title: str, sections: list[Iterator[str]]) -> None:
    """Writes a page of the docs from its sections."""
    lines = [
        f"# {title}",
        "",
        "Written by `python -m benchmarks.tables RUNS` from the runs of the commands below, over crops that "
        "`python -m benchmarks.crops PHOTOGRAPHS CROPS` cut out of photographs.",
    ]
    for section in sections:
        lines += section
    (DOCS / page).write_text("\n".join(lines) + "\n")


def main() -> None:
    """Writes both pages from the runs in a folder."""
    parser = argparse.ArgumentParser(description="docs/methods.md, docs/bits-back.md")
    parser.add_argument("runs", type=Path)
    runs = parser.parse_args().runs

    def store(name: str) -> Store:
        return open_store(str(runs / name))

    if all((runs / name).exists() for name in ("methods", "presets")):
        write("methods.md", "Methods compared", [methods(store("methods")), presets(store("presets"))])
    if all((runs / name).exists() for name in (*BITS_BACK_RUNS, *PRINTED)):
        measured = bits_back([store(name) for name in BITS_BACK_RUNS])
        write("bits-back.md", "Bits-back measured", [measured, printed(runs)])


if __name__ == "__main__":
    main()
