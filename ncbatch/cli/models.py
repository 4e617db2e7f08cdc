"""Commands for models."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from ncbatch.cli.common import Storage, open_run_store
from ncbatch.cli.console import err, out, print_table
from ncbatch.cli.flags import command
from ncbatch.errors import UsageError
from ncbatch.exit_codes import ExitCode
from ncbatch.settings import Setting, positive_float
from ncbatch.store import Store

if TYPE_CHECKING:
    from ncbatch.codec.model.info import Described

Row = tuple[str, str, float, int, int, str, float | None, float | None]


@command
def models(
    folder: Annotated[str | None, Setting(
        "folder or s3:// prefix with checkpoints, such as a training's --out", "FOLDER", default="none",
    )] = None,
    /,
    *,
    json: Annotated[bool, Setting("print the list as JSON")] = False,
    store: Storage,
) -> ExitCode:  # fmt: skip
    """Lists the built-in models, CompressAI's, and those in a folder."""
    rows = [*_builtin_rows(), *_zoo_rows()]
    if folder:
        place = open_run_store(folder, store)
        own = list(_rows_of(place))
        if not own:
            err.print(f"{place.uri} holds no checkpoints (.safetensors)")
        rows += own
    if json:
        names = ("name", "kind", "lmbda", "n", "m", "digest", "kodak_bpp", "kodak_psnr")
        out.print_json(data=[dict(zip(names, row, strict=True)) for row in rows])
    else:
        print_table(("name", "kind", "lmbda", "N", "M", "digest", "Kodak bpp", "PSNR dB"), rows)
    return ExitCode.OK


def _row(name: str, model: Described, bpp: float | None = None, psnr: float | None = None) -> Row:
    info = model.info
    return (name, info.kind, info.lmbda, info.n, info.m, model.digest[:16], bpp, psnr)


def _builtin_rows() -> Iterator[Row]:
    from ncbatch.models import catalog

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
    from ncbatch.models import catalog
    from ncbatch.report.published import published_points

    points = [p for p in published_points() if p.method == "compressai-mbt2018-mean_mse_cuda"]
    for quality, point in enumerate(sorted(points, key=lambda p: p.bpp), 1):
        name = f"{catalog.ZOO_PREFIX}{catalog.ZOO_MODEL}/{quality}"
        lmbda = catalog.ZOO_LMBDA[quality - 1]
        yield (name, "base", lmbda, *catalog.ZOO_CHANNELS[quality], "", point.bpp, point.psnr)


def _rows_of(place: Store) -> Iterator[Row]:
    """The checkpoints in a folder; a file that is none is said so and passed over."""
    from ncbatch.codec.errors import ModelError
    from ncbatch.codec.model.info import describe

    for info in place.list():
        if info.key.endswith(".safetensors"):
            name = place.uri + info.key
            try:
                yield _row(name, describe(place.get(info.key), name))
            except ModelError as error:
                err.print(str(error))


@command
def convert(
    source: Annotated[str, Setting(
        "torch file (or s3:// object) with a state dict of MeanScaleHyperprior", "SOURCE",
    )],
    destination: Annotated[str, Setting(
        "checkpoint to write, .safetensors (or s3:// object)", "DESTINATION",
    )],
    /,
    *,
    lmbda: Annotated[float | None, Setting(
        "weight of the MSE (on 0..255) that the weights were trained with, which becomes the model's default "
        "rate", "WEIGHT", positive_float, also=("lambda",), default="what the file says; most do not say it",
    )] = None,
    force: Annotated[bool, Setting("overwrite the destination; without this, that is an error")] = False,
    store: Storage,
) -> ExitCode:  # fmt: skip
    """Makes a checkpoint from a CompressAI torch file."""
    from ncbatch.store.objects import folder_of, read_object, require_object

    require_object(source, store)
    folder, name = folder_of(destination, store, create=True)
    if not name:
        raise UsageError(f"{destination} is a folder; name the checkpoint to write, .safetensors")
    if not force and folder.head(name) is not None:
        raise UsageError(f"{destination} exists already; give another name, or --force to overwrite it")
    from ncbatch.models import zoo

    with tempfile.NamedTemporaryFile() as file:
        local = Path(source)
        if not local.is_file():
            file.write(read_object(source, store))
            file.flush()
            local = Path(file.name)
        checkpoint = zoo.convert(local, source, lmbda=lmbda)
    folder.put(name, checkpoint.to_bytes())
    out.print(f"{destination}: lmbda {checkpoint.info.lmbda:g}, digest {checkpoint.digest[:16]}")
    return ExitCode.OK
