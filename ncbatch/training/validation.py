"""How good a checkpoint is on images that it was not trained on, by the codec itself."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ncbatch.codec.decode import reconstruct
from ncbatch.codec.model.checkpoint import Checkpoint
from ncbatch.codec.model.hyperprior import Model, to_tensor
from ncbatch.images import distortion
from ncbatch.training.images import TrainingImages


@dataclass(frozen=True)
class Score:
    """Means over images, of rounded latents and 8-bit images.

    Attributes:
        bpp: information content in bits per pixel.
        psnr: in dB.
        rd_loss: bits per pixel + lmbda * MSE.
    """

    bpp: float
    psnr: float
    rd_loss: float


def score(checkpoint: Checkpoint, images: TrainingImages, device: torch.device) -> Score:
    """The score of the amortized encoding, without refinement."""
    model = Model(checkpoint, device)
    bpps, psnrs, losses = [], [], []
    for pixels in images.images:
        latents = model.round(*model.analyse(to_tensor(pixels, device)))
        bpp = sum(bits.item() for bits in model.information(latents)) / (pixels.size / 3)
        error = distortion.mse(pixels, reconstruct(model, latents, *pixels.shape[:2]))
        bpps.append(bpp)
        psnrs.append(distortion.psnr(error))
        losses.append(bpp + checkpoint.info.lmbda * error)
    count = len(losses)
    return Score(sum(bpps) / count, sum(psnrs) / count, sum(losses) / count)
