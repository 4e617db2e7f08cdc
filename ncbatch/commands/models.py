"""Commands for models."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ncbatch.commands.common import open_run_store
from ncbatch.console import err, out, print_table
from ncbatch.errors import UsageError
from ncbatch.store import Store

if TYPE_CHECKING:
    from ncbatch.codec.model_info import Described

Row = tuple[str, str, float, int, int, str, float | None, float | None]


def models(args: argparse.Namespace) -> int:
    rows = [*_builtin_rows(), *_zoo_rows()]
    if args.place:
        rows += _rows_of(open_run_store(args, args.place))
    columns = ("name", "kind", "lmbda", "N", "M", "digest", "Kodak bpp", "PSNR dB")
    print_table(columns, rows)
    return 0


def _row(name: str, model: Described, bpp: float | None = None, psnr: float | None = None) -> Row:
    info = model.info
    return (name, info.kind, info.lmbda, info.n, info.m, model.digest[:16], bpp, psnr)


def _builtin_rows() -> Iterator[Row]:
    from ncbatch.codec import catalog

    facts = catalog.builtin_facts()
    for name in catalog.builtin_models():
        model = catalog.describe_builtin(name)
        known = facts.get(name)
        if known and known.measured and known.digest == model.digest:
            yield _row(name, model, known.measured.bpp, known.measured.psnr)
        else:
            yield _row(name, model)


def _zoo_rows() -> Iterator[Row]:
    """CompressAI's models, with the figures it publishes; their weights are downloaded when they are used."""
    from ncbatch.codec import catalog
    from ncbatch.report.published import published_points

    points = [p for p in published_points() if p.method == "compressai-mbt2018-mean_mse_cuda"]
    for quality, point in enumerate(sorted(points, key=lambda p: p.bpp), 1):
        name = f"{catalog.ZOO_PREFIX}{catalog.ZOO_MODEL}/{quality}"
        lmbda = catalog.ZOO_LMBDA[quality - 1]
        yield (name, "base", lmbda, *catalog.ZOO_CHANNELS[quality], "", point.bpp, point.psnr)


def _rows_of(place: Store) -> Iterator[Row]:
    """The checkpoints in a folder; a file that is none is said so and passed over."""
    from ncbatch.codec.errors import ModelError
    from ncbatch.codec.model_info import describe

    for info in place.list():
        if info.key.endswith(".safetensors"):
            name = place.uri + info.key
            try:
                yield _row(name, describe(place.get(info.key), name))
            except ModelError as error:
                err.print(str(error))


def convert(args: argparse.Namespace) -> int:
    if not Path(args.source).is_file():
        raise UsageError(f"there is no file {args.source}")
    from ncbatch.codec import zoo

    checkpoint = zoo.convert(Path(args.source), lmbda=args.lmbda)
    Path(args.destination).write_bytes(checkpoint.to_bytes())
    out.print(f"{args.destination}: lmbda {checkpoint.info.lmbda:g}, digest {checkpoint.digest[:16]}")
    return 0
