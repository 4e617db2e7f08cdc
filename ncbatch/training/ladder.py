"""The ladder of rates in one walk: every model starts from its trained neighbour."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ncbatch.codec.model.info import ModelKind

if TYPE_CHECKING:
    from ncbatch.codec.model.checkpoint import Checkpoint

# Where the walk begins and most of the budget goes: what high rates need of the transforms is learned slowly,
# and low rates can leave it away.
_START = 0.02


@dataclass(frozen=True)
class RatePoint:
    """One model of a ladder.

    Attributes:
        lmbda: weight of the MSE on 0..255.
        kind: "base" or "bits-back".
        parent: trained before it; its weights are the start.
    """

    kind: ModelKind
    lmbda: float
    parent: RatePoint | None = None

    @property
    def name(self) -> str:
        """The model's name, as of its file: the kind and lmbda, with three decimals where they suffice."""
        digits = f"{self.lmbda:.3f}" if round(self.lmbda, 3) == self.lmbda else f"{self.lmbda:g}"
        return f"{self.kind}-{digits}"


def walk(lmbdas: Sequence[float], kinds: Sequence[ModelKind], *, warm: bool = True) -> list[RatePoint]:
    """The order of training: outwards from the rate next to 0.02; bits-back models start from base ones.

    Args:
        lmbdas: the rates.
        kinds: of the models wanted.
        warm: whether models start from a neighbour; otherwise each is trained from nothing, as in the paper.
    """
    rates = sorted(set(lmbdas))
    if not warm:
        return [RatePoint(kind, rate) for kind in kinds for rate in rates]
    start = min(range(len(rates)), key=lambda i: abs(math.log(rates[i] / _START)))
    base: dict[float, RatePoint] = {rates[start]: RatePoint("base", rates[start])}
    for i in range(start - 1, -1, -1):
        base[rates[i]] = RatePoint("base", rates[i], base[rates[i + 1]])
    for i in range(start + 1, len(rates)):
        base[rates[i]] = RatePoint("base", rates[i], base[rates[i - 1]])
    rungs = list(base.values())
    if "bits-back" in kinds:
        rungs += [RatePoint("bits-back", rung.lmbda, rung) for rung in list(base.values())]
    return rungs


def climb(
    rungs: Sequence[RatePoint],
    start: Checkpoint | None,
    train: Callable[[RatePoint, Checkpoint | None], Checkpoint],
) -> Iterator[tuple[RatePoint, Checkpoint]]:
    """Trains the models in their order, each from its parent's weights, and yields each as it is done.

    Args:
        rungs: as `walk` gives them.
        start: the weights from which models without a parent start.
        train: trains one from a neighbour's weights, or only reads it where it is trained already.
    """
    trained: dict[RatePoint, Checkpoint] = {}
    for rung in rungs:
        trained[rung] = train(rung, trained[rung.parent] if rung.parent else start)
        yield rung, trained[rung]
