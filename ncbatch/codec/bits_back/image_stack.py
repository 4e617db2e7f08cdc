"""Images on an ANS stack, with bits-back: z is drawn from the stack by q(z|y_hat), and its bits come back.

Encoding an image draws z with q, pushes y_hat with p(y|z) and pushes z with p(z). Decoding pops z and y_hat,
infers q(z|y_hat) again, and returns z to the stack, which is then what it was before the image. An image that
finds too little on the stack is coded without bits-back: its z is then the posterior's mean, rounded to the
grid of plain files, and its y_hat is the same.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ncbatch.codec import ans
from ncbatch.codec.ans import AnsCoder
from ncbatch.codec.bits_back.bbvi import BbviSettings, infer
from ncbatch.codec.bits_back.fixed_posterior import Corrections, Posterior, snap, snap_corrected
from ncbatch.codec.bits_back.pack_file import Entry
from ncbatch.codec.errors import BitstreamError, ModelError, PosteriorMismatchError
from ncbatch.codec.gaussian_tables import SIGMA_BITS, coarse, coarse_mean
from ncbatch.codec.model.exact_hyper_synthesis import FINE_STEP, MAX_Z_SYMBOL, UNIT
from ncbatch.codec.model.hyperprior import PADDING, Model
from ncbatch.codec.model.rates import bits_back, gaussian_bits

_SPACING = FINE_STEP / UNIT  # of the fine grid, in units of z
_STATE_WORDS = 2  # of the stack: its head, which every operation changes


@dataclass(frozen=True)
class InferredPosterior:
    """An image's rounded latents and the posterior of z for them.

    Attributes:
        y_hat: int32[1, M, h, w].
        posterior: q(z|y_hat), in fixed point.
        corrections: what the decoder needs to arrive at the same posterior (see `fixed_posterior`).
    """

    y_hat: Tensor
    posterior: Posterior
    corrections: Corrections


@dataclass(frozen=True)
class CodingCost:
    """What an image cost on the stack.

    Attributes:
        bits_y: information content of y_hat, in bits.
        bits_z: information content of the z that was coded, in bits.
        bits_back: bits of z that the decoder gets back; None for an image that was coded without bits-back.
        words: 32-bit words by which the stack grew.
        untouched: words at the bottom of the stack that coding the image did not reach.
    """

    bits_y: float
    bits_z: float
    bits_back: float | None
    words: int
    untouched: int


def infer_posteriors(model: Model, y_hat: Tensor, settings: BbviSettings) -> list[InferredPosterior]:
    """Infers and snaps q(z|y_hat) of each image, as the decoder will.

    On a GPU, which one image does not fill, all images are inferred at once. What is found then differs in
    the last bits from what is found for one alone, as the decoder's does; corrections are there for that. On
    a CPU it is one after the other, so that an image's bytes do not depend on its neighbours.

    Args:
        model: of the kind bits-back.
        y_hat: the rounded latents, int32[batch, M, h, w].
        settings: of the inference.

    Raises:
        ModelError: the model is not of the kind bits-back.
        DivergedError: the parameters left the finite numbers.
    """
    if model.info.kind != "bits-back":
        raise ModelError(
            "the model is of the kind base, which has no posterior; bits-back needs one of the kind bits-back"
        )
    found = []
    for part in y_hat.split(1 if y_hat.device.type == "cpu" else len(y_hat)):
        for y, mean, log_variance in zip(part, *infer(model, part, settings), strict=True):
            posterior, corrections = snap(mean, log_variance)
            found.append(InferredPosterior(y[None], posterior, corrections))
    return found


def borrowed_bytes(image: InferredPosterior) -> int:
    """About how many bytes an image must find on the stack to be coded with bits-back.

    This is the entropy of q(z|y_hat) on the fine grid of z.
    """
    sigma = image.posterior.fixed_sigma / (1 << SIGMA_BITS)
    # The variance of the rounding keeps the entropy of narrow posteriors from being negative.
    bits = np.log2(np.sqrt(2 * math.pi * math.e * (sigma**2 + 1 / 12))).sum()
    return math.ceil(bits / 8) + 4 * _STATE_WORDS


def push_image(stack: AnsCoder, model: Model, image: InferredPosterior) -> CodingCost | None:
    """Codes an image with bits-back.

    Returns:
        What it cost, or None where the stack holds too little to draw z; the stack is then as it was.
    """
    before = stack.num_words()
    q = image.posterior
    trial = stack.clone()
    z = ans.draw_gaussian(trial, q.fixed_sigma, q.fixed_mean)
    left = trial.num_words()
    if left < _STATE_WORDS:
        return None
    ans.draw_gaussian(stack, q.fixed_sigma, q.fixed_mean)
    bits_y = _push_y(stack, *_on_host(model.fine_coding_parameters(_batch_of_one(z, model))), image.y_hat)
    model.fine_tables.push(stack, z)
    values = torch.from_numpy(z).to(model.device).double()[None] * _SPACING
    bits_z = model.precise_prior.bits(values, _SPACING).item()
    return CodingCost(bits_y, bits_z, _drawn_bits(q, z), stack.num_words() - before, left - _STATE_WORDS)


def _drawn_bits(posterior: Posterior, z: NDArray[np.int32]) -> float:
    """-log2 q(z) of symbols on the fine grid: the density times the spacing."""
    mean, log_variance = posterior.real
    noise = (torch.from_numpy(z).double() * _SPACING - mean) * (-0.5 * log_variance).exp()
    return bits_back(log_variance, noise).sum().item() - z.size * math.log2(_SPACING)


def push_plain(stack: AnsCoder, model: Model, image: InferredPosterior) -> CodingCost:
    """Codes an image without bits-back, and returns what it cost."""
    before = stack.num_words()
    mean = image.posterior.real[0].to(model.device)[None] - model.medians.double()
    z = mean.round().clamp(-MAX_Z_SYMBOL, MAX_Z_SYMBOL).to(torch.int32)
    bits_y = _push_y(stack, *_on_host(model.coding_parameters(z)), image.y_hat)
    model.z_tables.push(stack, z[0].cpu().numpy())
    bits_z = model.prior.bits(z.float() + model.medians).item()
    return CodingCost(bits_y, bits_z, None, stack.num_words() - before, max(before - _STATE_WORDS, 0))


def _push_y(stack: AnsCoder, mu: NDArray[np.int32], sigma: NDArray[np.int32], y_hat: Tensor) -> float:
    """Pushes y_hat, with coarse parameters, and returns its information content in bits."""
    symbols, coarse_sigma = y_hat[0].cpu().numpy(), coarse(sigma)
    ans.push_gaussian(stack, symbols, coarse_sigma, coarse_mean(mu, coarse_sigma))
    centred = torch.from_numpy(symbols).double() - torch.from_numpy(mu).double() / UNIT
    return gaussian_bits(centred, torch.from_numpy(sigma).double() / UNIT).sum().item()


@dataclass(frozen=True)
class DecodedLatents:
    """A decoded image whose bits of z are not yet given back.

    Attributes:
        z: its symbols, int32[N, h/4, w/4].
        y_hat: int32[1, M, h, w].
    """

    entry: Entry
    z: NDArray[np.int32]
    y_hat: Tensor


def pop_image(stack: AnsCoder, model: Model, entry: Entry, *, with_coarse: bool) -> DecodedLatents:
    """Decodes the image that was coded last.

    Args:
        stack: of the whole pack.
        model: that made the pack.
        entry: what the pack says of the image.
        with_coarse: whether y was coded with coarse parameters.

    Raises:
        BitstreamError: the stack does not hold what the entry says.
    """
    shape = (model.info.n, -(-entry.height // PADDING), -(-entry.width // PADDING))
    with_bits_back = entry.posterior is not None
    z = (model.fine_tables if with_bits_back else model.z_tables).pop(stack, shape)
    parameters = model.fine_coding_parameters if with_bits_back else model.coding_parameters
    mu, sigma = _on_host(parameters(_batch_of_one(z, model)))
    if with_coarse:
        sigma = coarse(sigma)
        mu = coarse_mean(mu, sigma)
    symbols = ans.pop_gaussian(stack, sigma, mu)
    if checksum(symbols) != entry.latents:
        raise BitstreamError("it does not decode to what was coded")
    return DecodedLatents(entry, z, torch.from_numpy(symbols)[None].to(model.device))


def give_back(
    stack: AnsCoder, model: Model, popped: DecodedLatents, settings: BbviSettings, disturbance: float = 0.0
) -> None:
    """Returns an image's z to the stack, which is then what it was before the image was coded.

    Args:
        disturbance: see `bbvi.infer`.

    Raises:
        PosteriorMismatchError: inference arrives at another posterior than the encoder's.
        BitstreamError: z is none that the posterior draws.
    """
    if popped.entry.posterior is None:
        return
    mean, log_variance = infer(model, popped.y_hat, settings, disturbance)
    q = snap_corrected(mean[0], log_variance[0], popped.entry.corrections)
    if q.checksum != popped.entry.posterior:
        raise PosteriorMismatchError(
            "inference arrives at another posterior here than where the pack was made, so what was coded "
            "before cannot be decoded; use the encoder's versions of ncbatch and torch"
        )
    ans.return_gaussian(stack, popped.z, q.fixed_sigma, q.fixed_mean)


def checksum(y_hat: NDArray[np.int32]) -> int:
    """The low 16 bits of the CRC-32 of y_hat."""
    return zlib.crc32(y_hat.astype("<i4").tobytes()) & 0xFFFF


def _batch_of_one(z: NDArray[np.int32], model: Model) -> Tensor:
    return torch.from_numpy(z)[None].to(model.device)


def _on_host(parameters: tuple[Tensor, Tensor]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    mu, sigma = (parameter[0].cpu().numpy() for parameter in parameters)
    return mu, sigma
