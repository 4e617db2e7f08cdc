"""The self-test: decodes golden files, codes an image and decodes it elsewhere, and measures the loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from ncbatch.codec import bitstream
from ncbatch.codec.decode import decode_latents, reconstruct
from ncbatch.codec.encode import encode
from ncbatch.codec.methods import Sga
from ncbatch.codec.model import known_answer
from ncbatch.codec.model.checkpoint import Checkpoint
from ncbatch.codec.model.exact_hyper_synthesis import ExactHyperSynthesis
from ncbatch.codec.model.hyperprior import Model, to_tensor
from ncbatch.codec.refinement.batch import Refinement
from ncbatch.codec.refinement.loop import Target
from ncbatch.codec.refinement.noise import ImageNoise
from ncbatch.errors import NcbatchError, first_line
from ncbatch.images import distortion
from ncbatch.images.pixels import Pixels
from ncbatch.models import zoo
from ncbatch.selftest.device import describe
from ncbatch.selftest.golden import golden_files

MODEL = "base-0.010"

_LMBDA = 0.01
_STEPS = 20
_SECONDS = 2.0  # for which the loop is measured
_LEAST_PSNR = 20.0  # dB; the picture is smooth, and comes back at 30 and more
_LEAST_SHARE = 0.99  # of samples that a CPU decodes to the same level as the device


class SelfTestError(NcbatchError):
    """A device does not do what it has to."""


@dataclass
class Report:
    """What was found.

    Attributes:
        facts: about the device, by name.
        files: golden files that decoded as they have to.
        images: that they hold.
        steps_per_second: of the refinement of one image of 768x512 pixels; None where a check failed before.
        problem: what failed first; None: nothing did.
    """

    facts: dict[str, str]
    files: int = 0
    images: int = 0
    steps_per_second: float | None = None
    problem: str | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    """That each check took, by name."""


def run(device: torch.device) -> Report:
    """Carries out all checks up to the first that fails."""
    report = Report(describe(device))
    checks: dict[str, Callable[[Report, Checkpoint, torch.device], None]] = {
        "exact integers": _exact,
        "golden files": _golden,
        "encode and decode": _coded,
        "refinement speed": _measured,
    }
    checkpoint = zoo.load_builtin(MODEL)
    for name, check in checks.items():
        started = time.monotonic()
        try:
            check(report, checkpoint, device)
        except NcbatchError as error:
            report.problem = f"{name}: {error}"
        except (RuntimeError, MemoryError) as error:  # whatever torch has to say of its device
            report.problem = f"{name}: {type(error).__name__}: {first_line(error)}"
        report.seconds[name] = round(time.monotonic() - started, 3)
        if report.problem is not None:
            break
    return report


def _exact(report: Report, checkpoint: Checkpoint, device: torch.device) -> None:
    known_answer.compare(ExactHyperSynthesis(checkpoint.integer_layers(), device), checkpoint)


def _golden(report: Report, checkpoint: Checkpoint, device: torch.device) -> None:
    model: Model | None = None
    for file in golden_files():
        if model is None or model.digest != file.model.digest:
            model = Model(file.model, device)
        problem = file.problem(model)
        if problem is not None:
            raise SelfTestError(problem)
        report.files, report.images = report.files + 1, report.images + len(file.images)


def _coded(report: Report, checkpoint: Checkpoint, device: torch.device) -> None:
    """Encodes an image on the device and decodes it there and on the CPU."""
    pixels = picture(200, 136)
    model = Model(checkpoint, device)
    outcome = encode(model, [pixels], Sga(lmbda=_LMBDA, steps=_STEPS))[0].outcome
    images = []
    latents = []
    for place in (model, Model(checkpoint)):
        stream = bitstream.parse(outcome.data, max_pixels=pixels.size)
        latents.append(decode_latents(place, stream))
        images.append(reconstruct(place, latents[-1], stream.height, stream.width))
    if not all(torch.equal(getattr(latents[0], n).cpu(), getattr(latents[1], n)) for n in ("y", "z")):
        raise SelfTestError("what the device encodes decodes to other latents on the CPU")
    same = float(np.mean(images[0] == images[1]))
    if same < _LEAST_SHARE:
        raise SelfTestError(f"only {same:.1%} of the samples that the device decodes are those of the CPU")
    psnr = distortion.psnr(distortion.mse(pixels, images[0]))
    if not psnr >= _LEAST_PSNR:
        raise SelfTestError(f"the image comes back at {psnr:.2f} dB, where 30 dB are usual")


def _measured(report: Report, checkpoint: Checkpoint, device: torch.device) -> None:
    report.steps_per_second = round(steps_per_second(Model(checkpoint, device), picture(768, 512)), 2)


def steps_per_second(model: Model, pixels: Pixels, batch: int = 1, seconds: float = _SECONDS) -> float:
    """Steps of a batch that the refinement loop takes in a second, looks left out.

    Args:
        model: on its device.
        pixels: the image, of which each in the batch is a copy.
        batch: how many are refined together.
        seconds: how long it is measured, once it is warm.
    """
    targets = [Target(pixels.shape[0], pixels.shape[1], ImageNoise(0, bytes([i]))) for i in range(batch)]
    images = to_tensor(pixels, model.device).expand(batch, -1, -1, -1)
    refinement = Refinement(model, images, targets, Sga(lmbda=_LMBDA, steps=10**6, check_every=10**6))
    refinement.advance(3)
    steps, taken, elapsed = 1, 0, 0.0
    wait_for(model.device)
    started = time.perf_counter()
    while elapsed < seconds:
        refinement.advance(steps)
        wait_for(model.device)  # only now and then, or the device would wait for the host at each step
        taken, elapsed = taken + steps, time.perf_counter() - started
        steps = max(1, min(taken, 500))
    return taken / elapsed


def wait_for(device: torch.device) -> None:
    """Returns when the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def picture(width: int, height: int) -> Pixels:
    """Smooth colours with an edge, uint8[height, width, 3]."""
    y, x = np.mgrid[0:height, 0:width] / 40.0
    waves = [128 + 90 * np.sin(a * x + b * y) for a, b in ((1.0, 0.3), (-0.5, 1.1), (0.2, -0.7))]
    samples = np.where((np.hypot(x - 2, y - 2) < 1.2)[..., None], 40.0, np.stack(waves, -1))
    return samples.round().astype(np.uint8)
