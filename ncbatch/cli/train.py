"""The command that trains models."""

from __future__ import annotations

import argparse
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ncbatch.cli.common import open_run_store, store_options
from ncbatch.cli.console import out, print_table, progress_display
from ncbatch.cli.dry_run import print_cost
from ncbatch.errors import UsageError, unknown
from ncbatch.exit_codes import ExitCode
from ncbatch.store import open_store
from ncbatch.words import duration

if TYPE_CHECKING:
    from ncbatch.codec.model.checkpoint import Checkpoint
    from ncbatch.training.ladder import RatePoint
    from ncbatch.training.session import LogRow
    from ncbatch.training.settings import TrainingSettings
    from ncbatch.training.train import Group, TrainingRequest

log = logging.getLogger(__name__)

_GIB = 1 << 30
_FIELDS = (
    "n", "m", "batch_size", "crop", "learning_rate", "warmup", "decay", "aux_learning_rate", "clip", "seed",
)  # fmt: skip


def train(args: argparse.Namespace) -> int:
    rungs = _rungs(args)
    if not args.start_from:
        for rung in rungs:
            _settings(args, rung, None)
    open_run_store(args, args.corpus)
    # What can be wrong with names and places has been said; from here on torch is needed, perhaps Ray.
    from ncbatch.models.loading import load_model
    from ncbatch.training.ladder import climb
    from ncbatch.training.train import train as run_training

    start = load_model(args.start_from, store_options(args)) if args.start_from else None
    if args.dry_run:
        return _print_plan(args, rungs, start)
    group = _group(args)
    request = _request(args, _settings(args, rungs[0], start), alone=group is None)
    for rung in rungs:
        _settings(args, rung, start)  # what is wrong with the last one is better said now than in a week
    out_uri = open_store(args.out, store_options(args), create=True).uri
    with progress_display() as show:

        def train_one(rung: RatePoint, parent: Checkpoint | None) -> Checkpoint:
            line = ProgressLine(rung.name)
            asked = replace(
                request,
                settings=_settings(args, rung, parent),
                output_uri=out_uri if args.lmbda else f"{out_uri}{rung.name}/",
                start=None if parent is None else parent.to_bytes(),
            )
            return run_training(asked, lambda row, steps: show(line(row, steps), row.step == steps), group)

        for rung, checkpoint in climb(rungs, start, train_one):
            log.info("%s is done, digest %s", rung.name, checkpoint.digest[:16])
    return ExitCode.OK


def _print_plan(args: argparse.Namespace, rungs: list[RatePoint], start: Checkpoint | None) -> int:
    """What would be trained, and how long it would take one worker like this machine from the start."""
    import torch

    from ncbatch.plan.corpus import list_corpus
    from ncbatch.training.estimate import seconds_per_step

    output = open_store(args.out, store_options(args), create=True)
    listing = list_corpus(open_run_store(args, args.corpus), args.include or (), args.exclude or (), output)
    log.info("timing some steps on this machine")
    paces: dict[tuple[object, ...], float] = {}
    rows, total = [], 0.0
    for rung in rungs:
        settings = _settings(args, rung, start)
        shape = (settings.kind, settings.n, settings.m, settings.batch_size, settings.crop)
        if shape not in paces:
            paces[shape] = seconds_per_step(settings, args.threads or torch.get_num_threads())
        seconds = settings.steps * paces[shape]
        total += seconds
        parent = rung.parent.name if rung.parent else args.start_from
        rows.append((rung.name, settings.n, settings.m, settings.steps, parent, duration(seconds)))
    print_table(("model", "N", "M", "steps", "starts from", "time"), rows)
    images = "1 image" if len(listing.images) == 1 else f"{len(listing.images)} images"
    out.print(f"in all {duration(total)} with one worker like this machine, on {images} of {args.corpus}")
    print_cost(total, args.price_per_hour)
    return ExitCode.OK


def _rungs(args: argparse.Namespace) -> list[RatePoint]:
    """What to train. Under the preset `paper` no model starts from another: that is what the paper did."""
    from ncbatch.training.ladder import RatePoint, walk
    from ncbatch.training.settings import LADDER

    kinds = [kind.strip() for kind in args.kind.split(",")]
    wrong = [kind for kind in kinds if kind not in ("base", "bits-back")]
    if wrong:
        raise UsageError(f"--kind: {unknown(wrong[0], ('base', 'bits-back'))}")
    if args.lmbda is not None:
        if len(kinds) > 1:
            raise UsageError("--lmbda trains one model; give one --kind, or --ladder for several models")
        return [RatePoint(kinds[0], args.lmbda)]
    return walk(args.ladder or list(LADDER), kinds, warm=args.preset == "small")


def _settings(args: argparse.Namespace, rung: RatePoint, start: Checkpoint | None) -> TrainingSettings:
    from ncbatch.training.settings import make_settings

    given: dict[str, Any] = {n: getattr(args, n) for n in _FIELDS if getattr(args, n) is not None}
    if args.steps is not None:
        given["steps"] = args.steps
    settings = make_settings(args.preset, rung.kind, rung.lmbda, start_from=start and start.digest, **given)
    if rung.parent is None:
        return settings
    steps = args.warm_steps if args.warm_steps is not None else max(settings.steps // 4, 1)
    return make_settings(args.preset, rung.kind, rung.lmbda, **settings.model_dump(
        exclude={"kind", "lmbda", "steps"}), steps=steps)  # fmt: skip


def _request(args: argparse.Namespace, settings: TrainingSettings, *, alone: bool) -> TrainingRequest:
    import torch

    from ncbatch.plan.corpus import list_corpus
    from ncbatch.training.session import SessionOptions
    from ncbatch.training.train import TrainingRequest

    corpus = open_run_store(args, args.corpus)
    output = open_store(args.out, store_options(args), create=True)
    listing = list_corpus(corpus, args.include or (), args.exclude or (), output)
    log.info("%s: %d images", corpus.uri, len(listing.images))
    for note in listing.notes():
        log.info("%s", note)
    return TrainingRequest(
        settings=settings,
        corpus_uri=corpus.uri,
        keys=tuple(image.key for image in listing.images),
        output_uri=args.out,
        store=store_options(args),
        session=SessionOptions(save_seconds=60 * args.save_minutes),
        memory_bytes=int(args.memory * _GIB),
        threads=args.threads or (torch.get_num_threads() if alone else 1),
    )


def _group(args: argparse.Namespace) -> Group | None:
    """Workers of a Ray that is started for them, or None for this process alone."""
    import torch

    if not args.ray_address and (args.workers or torch.cuda.device_count()) <= 1:
        return None
    import ray

    from ncbatch.driver.cluster import start_ray
    from ncbatch.driver.options import PoolConfig
    from ncbatch.training.train import Group

    size = start_ray(args.ray_address, PoolConfig(args.workers, cpus=args.threads or 1))
    gpus = int(ray.cluster_resources().get("GPU", 0))
    return Group(args.workers or max(gpus, 1), use_gpu=bool(size.gpus))


class ProgressLine:
    """A row of the log in one line, beside the last score on the validation images."""

    def __init__(self, name: str) -> None:
        self._name, self._score = name, ""

    def __call__(self, row: LogRow, steps: int) -> str:
        if row.validation_rd_loss is not None:
            self._score = (
                f" | validation {row.validation_rd_loss:.4f}: {row.validation_bpp:.3f} bpp, "
                f"{row.validation_psnr:.2f} dB"
            )
        left = duration((steps - row.step) / row.steps_per_second)
        return (
            f"{self._name}: step {row.step}/{steps} | loss {row.loss:.4f}: {row.bpp:.3f} bpp, "
            f"MSE {row.mse:.1f}{self._score} | {row.steps_per_second:.1f} steps/s | ETA {left}"
        )
