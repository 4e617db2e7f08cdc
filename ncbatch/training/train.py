"""Carries a training out: in this process, or on the workers of a Ray Train group."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import torch

from ncbatch.codec.allocator import keep_freed_memory
from ncbatch.codec.model.checkpoint import Checkpoint, parse
from ncbatch.errors import NcbatchError, UsageError
from ncbatch.store import Store, StoreOptions, open_store
from ncbatch.training.images import TrainingImages, read_images
from ncbatch.training.session import MODEL, LogRow, Session, SessionOptions, finished
from ncbatch.training.settings import TrainingSettings
from ncbatch.training.trainer import Trainer, TrainingWorker
from ncbatch.training.warm_start import warm_start

log = logging.getLogger(__name__)

_VALIDATION = 8

Show = Callable[[LogRow, int], None]


@dataclass(frozen=True)
class TrainingRequest:
    """One training, with where it reads and writes. It is sent to the workers.

    Attributes:
        settings: of the training.
        corpus_uri: of the images' folder.
        keys: of the images in it.
        output_uri: of the folder that the training is saved in.
        start: bytes of the checkpoint to start from, whose digest `settings.start_from` says.
        store: how to reach both folders.
        session: how the training is carried out.
        memory_bytes: how many bytes of decoded images one worker holds.
        threads: of one worker's computations.
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


def train_here(request: TrainingRequest, show: Show, worker: TrainingWorker | None = None) -> Checkpoint:
    """Trains in this process, as one worker of several or alone."""
    torch.set_num_threads(request.threads)
    keep_freed_memory()
    corpus = open_store(request.corpus_uri, request.store)
    output = open_store(request.output_uri, request.store, create=True)
    training, validation = _images(request, corpus)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    trainer = Trainer(request.settings, training, device, worker=worker)
    if request.start is not None:
        warm_start(trainer.model, parse(request.start, "the checkpoint to start from"))
    session = Session(request.settings, validation, output, trainer, request.session, show)
    return session.run()


def _images(request: TrainingRequest, corpus: Store) -> tuple[TrainingImages, TrainingImages]:
    """The images to train on, and those for validation."""
    crop = request.settings.crop
    rest, held_out = divided(request.corpus_uri, request.keys)
    return (
        read_images(corpus, rest, crop, request.memory_bytes),
        read_images(corpus, held_out, crop, request.memory_bytes, "validation"),
    )


def divided(corpus: str, keys: Sequence[str]) -> tuple[list[str], list[str]]:
    """The images to train on, and a tenth of all, but at least one and at most eight, spread over the corpus,
    that are never trained on.

    Raises:
        UsageError: there are fewer than two.
    """
    if len(keys) < 2:
        found = "1 image" if keys else "no images"
        raise UsageError(f"{corpus} holds {found}; training needs at least two, one of them for validation")
    count = min(_VALIDATION, max(len(keys) // 10, 1))
    held_out = list(keys[:: len(keys) // count][:count])
    return [key for key in keys if key not in held_out], held_out


@dataclass(frozen=True)
class Group:
    """Ray Train workers that share every batch.

    Attributes:
        workers: how many.
        use_gpu: whether each has one.
    """

    workers: int
    use_gpu: bool


def train(request: TrainingRequest, show: Show, group: Group | None = None) -> Checkpoint:
    """Trains to the end, from wherever it stopped; a training that is done is only read.

    Args:
        request: the training.
        show: called with progress.
        group: workers of a Ray that is started; None trains in this process.

    Raises:
        UsageError: the corpus has fewer than two images.
        NcbatchError: the output holds a training with other settings, or the loss is not finite any more.
    """
    output = open_store(request.output_uri, request.store, create=True)
    done = finished(output, request.settings)
    if done is not None:
        log.info("%s is already trained", output.uri)
        return done
    return train_on_ray(request, show, group) if group else train_here(request, show)


def train_on_ray(request: TrainingRequest, show: Show, group: Group) -> Checkpoint:
    """Trains on a group of Ray Train workers that share every batch; the weights are those of one worker.

    Ray must be started. Every worker resumes from the same saved state, so a lost worker costs what was done
    since the last save.

    Raises:
        NcbatchError: the group failed again and again.
    """
    import ray.train
    from ray.train.torch import TorchTrainer
    from ray.util.queue import Queue

    rows = Queue()

    def work() -> None:
        context = ray.train.get_context()
        worker = TrainingWorker(context.get_world_rank(), context.get_world_size())
        try:
            train_here(request, lambda row, steps: rows.put((row, steps)), worker)
        except NcbatchError as error:  # all workers meet it, and trying again would not help
            rows.put(error)

    def drain() -> NcbatchError | None:
        found = None
        while (item := rows.get()) is not None:
            if isinstance(item, NcbatchError):
                found = item
            else:
                show(*item)
        return found

    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(1, thread_name_prefix="rows") as pool:
        resources = {"CPU": float(request.threads)}
        drained = pool.submit(drain)
        try:
            TorchTrainer(
                work,
                scaling_config=ray.train.ScalingConfig(
                    num_workers=group.workers,
                    use_gpu=group.use_gpu,
                    resources_per_worker=None if group.use_gpu else resources,
                ),
                run_config=ray.train.RunConfig(
                    storage_path=scratch, failure_config=ray.train.FailureConfig(max_failures=3)
                ),
            ).fit()
        except ray.train.TrainingFailedError as error:
            raise NcbatchError(f"the workers failed: {str(error).strip().splitlines()[-1]}") from error
        finally:
            rows.put(None)
            found = drained.result()
        if found is not None:
            raise found
    output = open_store(request.output_uri, request.store)
    return parse(output.get(MODEL), output.uri + MODEL)
