"""The command that trains models."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any

from ncbatch.cli.common import Storage, open_run_store
from ncbatch.cli.console import out, print_table, progress_display
from ncbatch.cli.dry_run import print_cost
from ncbatch.cli.flags import Given, command
from ncbatch.cli.variant_flags import INPUTS
from ncbatch.errors import UsageError, unknown
from ncbatch.exit_codes import ExitCode
from ncbatch.settings import (
    Number,
    Numbers,
    Price,
    Section,
    Setting,
    positive_float,
    positive_int,
    stated,
    words,
)
from ncbatch.store import open_store
from ncbatch.training.options import TrainingOptions
from ncbatch.training.settings import LADDER, Preset, TrainingSettings, default_of, make_settings
from ncbatch.words import counted, duration

if TYPE_CHECKING:
    from ncbatch.codec.model.checkpoint import Checkpoint
    from ncbatch.plan.corpus import Listing
    from ncbatch.store import Store, StoreOptions
    from ncbatch.training.ladder import RatePoint
    from ncbatch.training.session import LogRow
    from ncbatch.training.train import Group, TrainingRequest

log = logging.getLogger(__name__)

_WHAT = Section("what is trained (fixed once it has begun)", 1)
_HOW = Section("how it is carried out", 3)
_OF_THE_LADDER = ("kind", "lmbda", "start_from")
_FIELDS = {n: f for n, f in TrainingSettings.model_fields.items() if n not in _OF_THE_LADDER}
_WIDTHS = replace(stated(_FIELDS["widths"]), read=Numbers(Number(whole=True, least=1, most=1024), count=3))
_PATTERNS = {name: INPUTS[name] for name in ("include", "exclude")}


def _rates(text: str) -> tuple[float, ...]:
    return Numbers(positive_float)(text) if text else LADDER


@dataclass(frozen=True)
class ModelsToTrain:
    """Which models: one at a rate, or a ladder of them."""

    lmbda: Annotated[float | None, Setting(
        "train one model, straight into --out: weight of the MSE (on 0..255) against the bits per pixel",
        "WEIGHT", positive_float, also=("lambda",), default="none; this or --ladder is required",
    )] = None  # fmt: skip
    ladder: Annotated[tuple[float, ...] | None, Setting(
        "train a model at each of these rates, in folders of --out; without a value: the paper's seven",
        "[WEIGHT,...]", _rates, default="none; this or --lmbda is required",
    )] = None  # fmt: skip
    kind: Annotated[tuple[str, ...], Setting(
        "base, bits-back (for the methods of that name), or both with a comma", "KIND,...", words,
    )] = ("base",)  # fmt: skip
    preset: Annotated[Preset, Setting(
        "small: N = 64, 20,000 steps at a high rate that decays, hours on CPUs; paper: N = 192 and millions "
        "of steps, for GPUs", "PRESET",
    )] = "small"  # fmt: skip
    warm_steps: Annotated[int | None, Setting(
        "steps of a ladder's models that start from a trained neighbour", "N", positive_int,
        default="a quarter of --steps",
    )] = None  # fmt: skip
    start_from: Annotated[str | None, Setting(
        "name, file or URI of a checkpoint whose weights to start from, of the same N and of the same M or a "
        "smaller one", "MODEL", default="random weights",
    )] = None  # fmt: skip

    def rungs(self) -> list[RatePoint]:
        """What to train, in this order. Under the preset `paper` no model starts from another.

        Raises:
            UsageError: neither one rate nor a ladder, or both; an unknown kind.
        """
        from ncbatch.training.ladder import RatePoint, walk

        if self.lmbda is not None and self.ladder is not None:
            raise UsageError("--lmbda trains one model and --ladder several; give one of them")
        if self.lmbda is None and self.ladder is None:
            raise UsageError("give --lmbda WEIGHT to train one model, or --ladder for several models")
        wrong = [kind for kind in self.kind if kind not in ("base", "bits-back")]
        if wrong:
            raise UsageError(f"--kind: {unknown(wrong[0], ('base', 'bits-back'))}")
        kinds: Any = self.kind
        if self.lmbda is not None:
            if len(kinds) > 1:
                raise UsageError("--lmbda trains one model; give one --kind, or --ladder for several models")
            return [RatePoint(kinds[0], self.lmbda)]
        return walk(self.ladder or LADDER, kinds, warm=self.preset == "small")


@dataclass(frozen=True)
class _Asked:
    """A training as it was asked for. settings: the fields of `TrainingSettings` that were given."""

    corpus: str
    output: str
    models: ModelsToTrain
    settings: dict[str, Any]
    options: TrainingOptions
    store: StoreOptions
    patterns: dict[str, Any] = field(default_factory=dict)

    def listing(self) -> tuple[Store, Listing]:
        """The corpus, and the images in it."""
        from ncbatch.plan.corpus import list_corpus

        corpus = open_run_store(self.corpus, self.store)
        output = open_store(self.output, self.store, create=True)
        include, exclude = (self.patterns.get(name, ()) for name in ("include", "exclude"))
        return corpus, list_corpus(corpus, include, exclude, output)

    def settings_of(self, rung: RatePoint, start: Checkpoint | None) -> TrainingSettings:
        """Raises UsageError: a value is out of range; the message names its flag."""
        preset = self.models.preset
        start_from = start and start.digest
        settings = make_settings(preset, rung.kind, rung.lmbda, start_from=start_from, **self.settings)
        if rung.parent is None:
            return settings
        steps = self.models.warm_steps or max(settings.steps // 4, 1)
        return settings.model_copy(update={"steps": steps})


@command
def train(
    corpus: Annotated[str, Setting("folder or s3:// prefix with the images to train on", "CORPUS")],
    /,
    *,
    to: Annotated[str, Setting(
        "folder or s3:// prefix for the models and their state; an interrupted training there is continued",
        "PLACE", name="out",
    )],
    models: Annotated[ModelsToTrain, _WHAT],
    settings: Annotated[dict[str, Any], Given(_FIELDS, default_of, {"widths": _WIDTHS}), _WHAT],
    patterns: Annotated[dict[str, Any], Given(_PATTERNS), _HOW],
    options: Annotated[TrainingOptions, _HOW],
    dry_run: Annotated[bool, Setting(
        "train and write nothing: time some steps on this machine, then print which models would be trained, "
        "how long that would take, and what it would cost",
    ), _HOW] = False,
    price_per_hour: Annotated[Price, _HOW] = None,
    store: Storage,
) -> ExitCode:  # fmt: skip
    """Trains models, or goes on with an interrupted training."""
    asked = _Asked(corpus, to, models, settings, options, store, patterns)
    rungs = models.rungs()
    if not models.start_from:
        for rung in rungs:
            asked.settings_of(rung, None)
    open_run_store(corpus, store)
    # What can be wrong with names and places has been said; from here on torch is needed, perhaps Ray.
    from ncbatch.models.loading import load_model
    from ncbatch.training.warm_start import check_start

    start = load_model(models.start_from, store) if models.start_from else None
    for rung in rungs:
        settings_of_rung = asked.settings_of(rung, start)  # better refused now than after a week of others
        if start is not None and rung.parent is None:
            check_start(settings_of_rung, start.info)
    if dry_run:
        return _print_plan(asked, rungs, start, price_per_hour)
    return _train(asked, rungs, start)


def _train(asked: _Asked, rungs: list[RatePoint], start: Checkpoint | None) -> ExitCode:
    from ncbatch.training.ladder import climb
    from ncbatch.training.train import train

    started, group = time.monotonic(), _group(asked.options)
    request = _request(asked, asked.settings_of(rungs[0], start), alone=group is None)
    output = open_store(asked.output, asked.store, create=True).uri
    with progress_display() as show:

        def train_one(rung: RatePoint, parent: Checkpoint | None) -> Checkpoint:
            line, session = ProgressLine(rung.name), request.session
            if session.max_seconds is not None:
                left = max(session.max_seconds - (time.monotonic() - started), 0.0)
                session = replace(session, max_seconds=left)
            one = replace(
                request,
                settings=asked.settings_of(rung, parent),
                session=session,
                output_uri=output if asked.models.lmbda else f"{output}{rung.name}/",
                start=None if parent is None else parent.to_bytes(),
            )
            return train(one, lambda row, steps: show(line(row, steps), row.step == steps), group)

        for rung, checkpoint in climb(rungs, start, train_one):
            log.info("%s is done, digest %s", rung.name, checkpoint.digest[:16])
    return ExitCode.OK


def _print_plan(
    asked: _Asked, rungs: list[RatePoint], start: Checkpoint | None, price: float | None
) -> ExitCode:
    """What would be trained, and how long it would take one worker like this machine from the start."""
    import torch

    from ncbatch.training.estimate import seconds_per_step
    from ncbatch.training.train import divided

    corpus, listing = asked.listing()
    training, validation = divided(corpus.uri, [image.key for image in listing.images])
    log.info("timing some steps on this machine")
    paces: dict[tuple[object, ...], float] = {}
    rows, total = [], 0.0
    for rung in rungs:
        settings = asked.settings_of(rung, start)
        shape = (settings.kind, settings.n, settings.m, settings.widths, settings.batch_size, settings.crop)
        if shape not in paces:
            paces[shape] = seconds_per_step(settings, asked.options.threads or torch.get_num_threads())
        seconds = settings.steps * paces[shape]
        total += seconds
        parent = rung.parent.name if rung.parent else asked.models.start_from
        rows.append((rung.name, settings.n, settings.m, settings.steps, parent, duration(seconds)))
    print_table(("model", "N", "M", "steps", "starts from", "time"), rows)
    images = counted(len(training), "images")
    out.print(
        f"in all {duration(total)} with one worker like this machine, on {images} of {asked.corpus}; "
        f"{len(validation)} more for validation"
    )
    print_cost(total, price)
    return ExitCode.OK


def _request(asked: _Asked, settings: TrainingSettings, *, alone: bool) -> TrainingRequest:
    import torch

    from ncbatch.training.session import SessionOptions
    from ncbatch.training.train import TrainingRequest

    minutes = asked.options.max_minutes
    corpus, listing = asked.listing()
    log.info("%s: %d images", corpus.uri, len(listing.images))
    for note in listing.notes():
        log.info("%s", note)
    return TrainingRequest(
        settings=settings,
        corpus_uri=corpus.uri,
        keys=tuple(image.key for image in listing.images),
        output_uri=asked.output,
        store=asked.store,
        session=SessionOptions(60 * asked.options.save_minutes, minutes and 60 * minutes),
        memory_bytes=asked.options.memory_bytes,
        threads=asked.options.threads or (torch.get_num_threads() if alone else 1),
    )


def _group(options: TrainingOptions) -> Group | None:
    """Workers of a Ray that is started for them, or None for this process alone."""
    import torch

    if not options.ray_address and (options.workers or torch.cuda.device_count()) <= 1:
        return None
    import ray

    from ncbatch.driver.cluster import start_ray
    from ncbatch.driver.options import PoolConfig
    from ncbatch.training.train import Group

    start_ray(options.ray_address, PoolConfig(options.workers, cpus=options.threads or 1))
    gpus = int(ray.cluster_resources().get("GPU", 0))
    return Group(options.workers or max(gpus, 1), use_gpu=gpus > 0)


class ProgressLine:
    """A row of the log in one line, beside the last score on the validation images."""

    def __init__(self, name: str) -> None:
        self._name, self._score = name, ""

    def __call__(self, row: LogRow, steps: int) -> str:
        """The line for a row of the log."""
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
