"""The training loop: one step after the other, the same whoever computes it and however often it stopped.

Crops and noise of sample i of step t come from (seed, t, i) alone, so nothing but weights and optimizer
states has to be saved, and several workers that share a batch compute what one would.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from ncbatch.codec.model.hyperprior import fast_dtype
from ncbatch.errors import NcbatchError
from ncbatch.training.hyperprior import without_constants
from ncbatch.training.images import TrainingImages
from ncbatch.training.muon import Muon
from ncbatch.training.network import BatchNoise, TrainableHyperprior
from ncbatch.training.settings import TrainingSettings

_PREFETCHED = 4  # batches drawn ahead by a thread


class TrainingDivergedError(NcbatchError):
    """The loss is not finite any more; the last checkpoint is kept."""


@dataclass(frozen=True)
class StepReport:
    """One step, averaged over the whole batch.

    Attributes:
        step: counted from 1.
        loss: bits per pixel + lmbda * MSE.
        bpp: bits per pixel.
        mse: on 0..255.
        gradient_norm: before clipping.
        ends: whether a worker wanted this to be the last step for now.
    """

    step: int
    loss: float
    bpp: float
    mse: float
    gradient_norm: float
    ends: bool = False


@dataclass(frozen=True)
class TrainingWorker:
    """This process's part of every batch."""

    rank: int = 0
    count: int = 1

    def samples(self, batch_size: int) -> range:
        """The numbers of the samples of a batch that are computed here."""
        return range(self.rank, batch_size, self.count)


class Trainer:
    """Weights and optimizers of a training at some step.

    Args:
        images: the corpus.
        worker: which part of every batch is computed here; gradients are averaged over all workers.

    Attributes:
        end_wanted: set to end after the next step. Workers have clocks of their own and must end at the same
            step, so this goes to the others with the gradients and comes back as `StepReport.ends`.
    """

    def __init__(
        self,
        settings: TrainingSettings,
        images: TrainingImages,
        device: torch.device,
        *,
        worker: TrainingWorker | None = None,
    ) -> None:
        worker = worker or TrainingWorker()
        if settings.batch_size % worker.count:
            raise NcbatchError(
                f"a batch of {settings.batch_size} cannot be shared evenly by {worker.count} workers; "
                "choose another --batch-size"
            )
        self.settings, self.device, self._images = settings, device, images
        self.worker = worker
        torch.manual_seed(settings.seed)
        self.model = TrainableHyperprior(settings).to(device)
        self.model.to(memory_format=torch.channels_last)
        muon = self.model.transform_weights() if settings.optimizer == "muon" else []
        taken = {id(weight) for weight in muon}
        rest = [p for p in self.model.main_parameters() if id(p) not in taken]
        self._adam = torch.optim.Adam(rest, lr=settings.learning_rate, fused=True)
        self._muon = Muon(muon, lr=settings.muon_learning_rate) if muon else None
        self._aux = torch.optim.Adam(self.model.aux_parameters(), lr=settings.aux_learning_rate)
        self.step = 0
        self.end_wanted = False

    def run(self) -> Iterator[StepReport]:
        """Trains to the last step, reporting every one.

        Raises:
            TrainingDivergedError: the loss or a gradient is not finite; the weights are those before.
        """
        with ThreadPoolExecutor(1, thread_name_prefix="crops") as pool:
            ahead = [
                pool.submit(self._batch, step)
                for step in range(self.step, min(self.step + _PREFETCHED, self.settings.steps))
            ]
            while self.step < self.settings.steps:
                images, noise = ahead.pop(0).result()
                if self.step + _PREFETCHED < self.settings.steps:
                    ahead.append(pool.submit(self._batch, self.step + _PREFETCHED))
                report = self._advance(images, noise)
                self.step += 1
                yield report

    def _batch(self, step: int) -> tuple[Tensor, BatchNoise]:
        settings = self.settings
        samples = self.worker.samples(settings.batch_size)
        crops = [self._images.crop(settings.seed, step, i, settings.crop) for i in samples]
        generators = [_generator(settings.seed, step, i) for i in samples]
        return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2), self.model.noise(generators)

    def _advance(self, images: Tensor, noise: BatchNoise) -> StepReport:
        settings = self.settings
        self.model.zero_grad()
        images = images.to(self.device).float() / 255
        noise = BatchNoise(noise.y.to(self.device), noise.z.to(self.device))
        dtype = fast_dtype(self.device)
        with torch.autocast(self.device.type, dtype=dtype, enabled=dtype != torch.float32):
            losses = self.model(images, noise)
        loss = losses.rd_loss(settings.lmbda)
        loss.backward()
        ends = torch.tensor(float(self.end_wanted), device=self.device)
        numbers = torch.stack([loss.detach(), losses.bpp.detach(), losses.mse.detach(), ends])
        self._average([p.grad for p in self.model.main_parameters() if p.grad is not None], numbers)
        norm = torch.nn.utils.clip_grad_norm_(self.model.main_parameters(), settings.clip or math.inf)
        if not bool(numbers.isfinite().all() & norm.isfinite()):
            raise TrainingDivergedError(
                f"the loss is not finite at step {self.step}; what was saved before is kept. Use a smaller "
                "--learning-rate or a stricter --clip, and another --out"
            )
        for group in self._adam.param_groups:
            group["lr"] = settings.rate_at(self.step)
        self._adam.step()
        if self._muon is not None:
            for group in self._muon.param_groups:
                group["lr"] = settings.muon_learning_rate * settings.share_at(self.step)
            self._muon.step()
        if settings.kind == "base":
            self.model.aux_loss().backward()
            self._aux.step()
        total, bpp, mse, wanted = numbers.tolist()
        return StepReport(self.step, total, bpp, mse, norm.item(), ends=wanted > 0)

    def _average(self, gradients: list[Tensor], numbers: Tensor) -> None:
        """Replaces gradients and numbers by their means over all workers, in one message."""
        if self.worker.count == 1:
            return
        flat = torch.cat([numbers, *(g.reshape(-1) for g in gradients)])
        dist.all_reduce(flat)
        flat /= self.worker.count
        numbers.copy_(flat[: len(numbers)])
        for gradient, part in zip(
            gradients, flat[len(numbers) :].split([g.numel() for g in gradients]), strict=True
        ):
            gradient.copy_(part.view_as(gradient))

    def state(self) -> dict[str, Any]:
        """Everything that `restore` needs."""
        return {
            "settings": self.settings.model_dump(),
            "photographs": self._images.digest,
            "step": self.step,
            "model": self.model.state_dict(),
            "adam": self._adam.state_dict(),
            "aux": self._aux.state_dict(),
            "muon": self._muon.state_dict() if self._muon else None,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from a `state()`.

        Raises:
            NcbatchError: it is of a training on other images.
        """
        if state.get("photographs", self._images.digest) != self._images.digest:
            raise NcbatchError(
                "the training there saw other images; to continue it, give it the same corpus, --include, "
                "--exclude and --memory, or else choose another --out"
            )
        self.step = int(state["step"])
        self.model.load_state_dict(without_constants(state["model"]))  # written by CompressAI's module once
        self._adam.load_state_dict(state["adam"])
        self._aux.load_state_dict(state["aux"])
        if self._muon is not None:
            self._muon.load_state_dict(state["muon"])


def _generator(seed: int, step: int, index: int) -> torch.Generator:
    digest = hashlib.blake2b(f"{seed} {step} {index}".encode(), digest_size=7).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))
