"""The factorized prior p(z): its density for rates, its integer tables for coding.

The cumulative is the monotone network of Balle et al. 2018 (appendix 6.1) as CompressAI's
`EntropyBottleneck` trains it; the weights are frozen here, so everything derived from them alone is
computed once.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ncbatch.codec.model.exact_hyper_synthesis import MAX_Z_SYMBOL, UNIT
from ncbatch.codec.model.extents import Extents
from ncbatch.codec.model.rates import LIKELIHOOD_FLOOR, lower_bound

_TAIL = 2.0**-22  # probability beyond which symbols share the escape
_TABLE_BITS = 24


class FactorizedPrior:
    """p(z) per channel, frozen.

    Args:
        weights: CompressAI's `matrices.i`, `biases.i`, `factors.i` and `quantiles`.
        dtype: of the evaluation.
        device: of the evaluation.
    """

    def __init__(self, weights: dict[str, Tensor], dtype: torch.dtype, device: torch.device) -> None:
        layers = sum(name.startswith("matrices.") for name in weights)

        def frozen(name: str, count: int, derive: Callable[[Tensor], Tensor] | None = None) -> list[Tensor]:
            tensors = (weights[f"{name}.{i}"].double() for i in range(count))
            return [(derive(t) if derive else t).to(device, dtype) for t in tensors]

        self._matrices = frozen("matrices", layers, F.softplus)
        self._biases = frozen("biases", layers)
        self._factors = frozen("factors", layers - 1, torch.tanh)
        self._edges = torch.tensor([-0.5, 0.5], dtype=dtype, device=device)
        self._zero = torch.zeros((), dtype=dtype, device=device)
        self._transposed = [matrix.mT for matrix in self._matrices]
        self._transposed[-1] = self._transposed[-1] / math.log(2)  # so that gradients are of bits

    def logits(self, values: Tensor) -> Tensor:
        """Logits of the cumulative distribution; [channels, 1, points] to the same shape."""
        logits = values
        for i, (matrix, bias) in enumerate(zip(self._matrices, self._biases, strict=True)):
            logits = torch.baddbmm(bias, matrix, logits)
            if i < len(self._factors):
                logits = torch.addcmul(logits, self._factors[i], torch.tanh(logits))
        return logits

    def log_density(self, values: Tensor) -> Tensor:
        """The logarithm of p(z), with which bits-back codes; [channels, points] to the same shape,
        differentiable.
        """
        return log_density(values.unsqueeze(1), self._matrices, self._biases, self._factors).squeeze(1)

    def likelihood(self, values: Tensor, spacing: float = 1.0) -> Tensor:
        """Mass of [v - spacing/2, v + spacing/2]; [channels, points] to the same shape, differentiable."""
        points, half = values.unsqueeze(1), spacing / 2
        lower, upper = self.logits(points - half), self.logits(points + half)
        # The difference of two sigmoids keeps its precision on the side where both are small.
        sign = -torch.sign(lower + upper).detach()
        return torch.abs(torch.sigmoid(sign * upper) - torch.sigmoid(sign * lower)).squeeze(1)

    def bits(self, z: Tensor, spacing: float = 1.0, extents: Extents | None = None) -> Tensor:
        """Information content in bits of z on a grid, per image; [batch, channels, h, w] to [batch].

        extents: of the images, where they differ in size; what lies beyond their borders does not count.
        """
        batch, channels = z.shape[:2]
        likelihood = self.likelihood(z.transpose(0, 1).reshape(channels, -1), spacing)
        bits = -torch.log2(lower_bound(likelihood, LIKELIHOOD_FLOOR))
        if extents is not None:
            bits = extents.clear(bits.reshape(channels, batch, *z.shape[2:]).transpose(0, 1)).transpose(0, 1)
        return bits.reshape(channels, batch, -1).sum((0, 2))

    @torch.no_grad()
    def gradient(self, z: Tensor) -> Tensor:
        """The gradient of `bits(z).sum()`, [batch, channels, h, w] to the same."""
        by_channel = z.transpose(0, 1)
        edges = torch.empty(*by_channel.shape, 2, dtype=z.dtype, device=z.device)
        torch.add(by_channel[..., None], self._edges, out=edges)
        logits, squashed = edges.view(len(edges), 1, -1), []
        for i, (matrix, bias) in enumerate(zip(self._matrices, self._biases, strict=True)):
            logits = torch.baddbmm(bias, matrix, logits)
            if i < len(self._factors):
                squashed.append(torch.tanh(logits))
                logits.addcmul_(self._factors[i], squashed[i])
        edge = logits.view_as(edges)
        # sigmoid(-x) = 1 - sigmoid(x): on the side where both are small, the difference keeps its precision.
        side = (edge[..., :1] + edge[..., 1:]).sign_()
        sigmoids = torch.addcmul(self._zero, edge, side, value=-1, out=edge).sigmoid_()
        mass = (sigmoids[..., :1] - sigmoids[..., 1:]).abs_().clamp_min_(LIKELIHOOD_FLOOR)
        wrt_logits = sigmoids.addcmul_(sigmoids, sigmoids, value=-1).div_(mass).view_as(logits)
        for i in reversed(range(len(self._matrices))):
            if i < len(self._factors):
                through_tanh = torch.ops.aten.tanh_backward(wrt_logits, squashed[i])
                wrt_logits.addcmul_(self._factors[i], through_tanh)
            wrt_logits = torch.bmm(self._transposed[i], wrt_logits)
        below, above = wrt_logits.view_as(edges).unbind(-1)  # the mass is what lies between them
        gradient = torch.empty_like(z)
        torch.sub(below, above, out=gradient.transpose(0, 1))
        return gradient

    def density_bits(self, z: Tensor) -> Tensor:
        """The sum of -log2 p(z) per image; [batch, channels, h, w] to [batch]."""
        batch, channels = z.shape[:2]
        bits = self.log_density(z.transpose(0, 1).reshape(channels, -1)) / -math.log(2)
        return bits.reshape(channels, batch, -1).sum((0, 2))


def log_density(
    values: Tensor, matrices: Sequence[Tensor], biases: Sequence[Tensor], factors: Sequence[Tensor]
) -> Tensor:
    """The logarithm of the cumulative distribution's derivative; [channels, 1, points] to the same shape.

    Args:
        values: where it is evaluated.
        matrices: as they enter the network, after softplus.
        biases: as they enter the network.
        factors: as they enter the network, after tanh.
    """
    logits, slope = values, torch.ones_like(values)
    for i, (matrix, bias) in enumerate(zip(matrices, biases, strict=True)):
        logits, slope = matrix @ logits + bias, matrix @ slope
        if i < len(factors):
            squashed = torch.tanh(logits)
            logits, slope = logits + factors[i] * squashed, slope * (1 + factors[i] * (1 - squashed.square()))
    return F.logsigmoid(logits) + F.logsigmoid(-logits) + slope.clamp_min(1e-12).log()


def fixed_point_medians(weights: dict[str, Tensor], *, trained: bool) -> Tensor:
    """The median of each channel in units of 1/UNIT, int32[channels].

    Args:
        weights: as of `FactorizedPrior`.
        trained: whether `quantiles` were trained with the weights; where they were not, the medians are
            searched for.
    """
    medians = weights["quantiles"][:, 0, 1].double() if trained else quantile(weights, 0.5)
    return (medians * UNIT).round().clamp(-MAX_Z_SYMBOL * UNIT, MAX_Z_SYMBOL * UNIT).to(torch.int32)


def quantile(weights: dict[str, Tensor], probability: float) -> Tensor:
    """The value below which z lies with this probability, per channel, by bisection; float64[channels]."""
    prior = FactorizedPrior(weights, torch.float64, torch.device("cpu"))
    logit = math.log(probability / (1 - probability))
    low = torch.full((len(weights["quantiles"]), 1, 1), -float(MAX_Z_SYMBOL), dtype=torch.float64)
    high = -low
    for _ in range(50):
        middle = (low + high) / 2
        above = prior.logits(middle) > logit
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return high[:, 0, 0]


def coding_tables(
    weights: dict[str, Tensor], origins: Tensor, spacing: float = 1.0
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """Integer tables of p(z) for `ans.FactorizedTables`: (first, lengths, frequencies).

    They are computed once, when a checkpoint is exported, and stored in it, since floats differ between
    machines.

    Args:
        weights: as of `FactorizedPrior`.
        origins: the value of each channel's symbol 0, in units of 1/UNIT; int32[channels].
        spacing: between the values of neighbouring symbols.
    """
    prior = FactorizedPrior(weights, torch.float64, torch.device("cpu"))
    origin = origins.double().unsqueeze(1) / UNIT
    reach, end = 16, int(MAX_Z_SYMBOL / spacing)
    while True:  # widen until every channel's tails are negligible, as far as symbols may go
        symbols = torch.arange(-reach, reach + 1, dtype=torch.float64)
        mass = prior.likelihood(symbols * spacing + origin, spacing).numpy()
        if reach >= end or (1 - mass.sum(1) < _TAIL).all():
            break
        reach = min(2 * reach, end)
    first, lengths, tables = [], [], []
    for channel in mass:
        kept = np.flatnonzero(channel > _TAIL)
        low, high = (int(kept[0]), int(kept[-1])) if len(kept) else (reach, reach)
        inside = channel[low : high + 1]
        escape = max(1.0 - math.fsum(inside), 0.0)
        frequencies = np.append(inside, escape) * 2.0**_TABLE_BITS
        first.append(low - reach)
        lengths.append(len(frequencies))
        tables.append(np.maximum(np.round(frequencies), 1.0).astype(np.int32))
    return np.array(first, np.int32), np.array(lengths, np.int32), np.concatenate(tables)
