"""Carrying a training out: in this process, or shared by the workers of a Ray Train group."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from ncbatch.codec.checkpoint import Checkpoint, parse
from ncbatch.errors import UsageError
from ncbatch.store import Store, StoreOptions, open_store
from ncbatch.training.network import warm_start
from ncbatch.training.photographs import Photographs, read_photographs
from ncbatch.training.session import MODEL, LogRow, Session, SessionOptions
from ncbatch.training.settings import TrainingSettings
from ncbatch.training.trainer import Trainer, Worker

log = logging.getLogger(__name__)

_VALIDATION = 8

Show = Callable[[LogRow, int], None]


@dataclass(frozen=True)
class TrainingRequest:
    """One training and where it lives. Travels to the workers.

    keys: of the photographs in the corpus. start_uri: checkpoint to start from, of the digest that
    `settings.start_from` says.
    memory_bytes: of decoded photographs that one worker holds.
    """

    settings: TrainingSettings
    corpus_uri: str
    keys: tuple[str, ...]
    output_uri: str
    start: bytes | None = field(default=None, repr=False)
    store: StoreOptions = field(default_factory=StoreOptions)
    session: SessionOptions = field(default_factory=SessionOptions)
    memory_bytes: int = 4 << 30
    threads: int = 1


def train_here(request: TrainingRequest, show: Show, worker: Worker | None = None) -> Checkpoint:
    """Trains in this process, as one worker of several or alone."""
    torch.set_num_threads(request.threads)
    corpus = open_store(request.corpus_uri, request.store)
    output = open_store(request.output_uri, request.store, create=True)
    training, validation = _photographs(request, corpus)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    trainer = Trainer(request.settings, training, device, worker=worker)
    if request.start is not None:
        warm_start(trainer.model, parse(request.start, "the checkpoint to start from"))
    session = Session(request.settings, validation, output, trainer, request.session, show)
    return session.run()


def _photographs(request: TrainingRequest, corpus: Store) -> tuple[Photographs, Photographs]:
    """The photographs to train on, and a few spread over the corpus that are never trained on."""
    keys, crop = request.keys, request.settings.crop
    if len(keys) < 2:
        raise UsageError(f"{request.corpus_uri} holds {len(keys)} pictures; training needs two at least")
    count = min(_VALIDATION, len(keys) // 2)
    held_out = keys[:: len(keys) // count][:count]
    rest = [key for key in keys if key not in held_out]
    return (
        read_photographs(corpus, rest, crop, request.memory_bytes),
        read_photographs(corpus, held_out, crop, request.memory_bytes),
    )


def train_on_ray(request: TrainingRequest, workers: int, *, use_gpu: bool) -> Checkpoint:
    """Trains on a group of Ray Train workers that share every batch; the weights are those of one worker.

    Ray must be started. Every worker resumes from the same saved state, so a lost worker costs what was done
    since the last save.
    """
    import ray.train
    from ray.train.torch import TorchTrainer

    def work() -> None:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
        context = ray.train.get_context()
        worker = Worker(context.get_world_rank(), context.get_world_size())
        train_here(request, log_row, worker)

    with tempfile.TemporaryDirectory() as scratch:
        resources = {"CPU": float(request.threads)}
        TorchTrainer(
            work,
            scaling_config=ray.train.ScalingConfig(
                num_workers=workers, use_gpu=use_gpu, resources_per_worker=None if use_gpu else resources
            ),
            run_config=ray.train.RunConfig(
                storage_path=scratch, failure_config=ray.train.FailureConfig(max_failures=3)
            ),
        ).fit()
    output = open_store(request.output_uri, request.store)
    return parse(output.get(MODEL), output.uri + MODEL)


def log_row(row: LogRow, steps: int) -> None:
    """One line of progress."""
    remaining = (steps - row.step) / row.steps_per_second
    score = ""
    if row.validation_rd_loss is not None:
        score = (
            f" | validation: {row.validation_rd_loss:.4f}, {row.validation_bpp:.3f} bpp, "
            f"{row.validation_psnr:.2f} dB"
        )
    log.info(
        "step %d of %d | loss %.4f, %.3f bpp, MSE %.1f%s | %.2f steps/s, %d min to go",
        row.step, steps, row.loss, row.bpp, row.mse, score, row.steps_per_second, round(remaining / 60),
    )  # fmt: skip
