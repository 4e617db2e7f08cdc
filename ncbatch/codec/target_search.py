"""The search for the lmbda, and the model of a ladder, by which an image meets a target.

Under one model, the logarithm of the rate and the decibels of the quality are nearly linear in the logarithm
of lmbda; both are called levels (see `target.Target`). A change of model is a large step, a change of lmbda a
small one. So the model is chosen by its amortized encoding and a pilot, the first steps of a refinement, and
lmbda is corrected while the refinement goes on: a rounded iterate's rate is within 2 % of the final one after
a tenth of the steps. What is then still missing is made up for by going over the last steps again, under
another lmbda, from the latents that were found.

Nothing here knows of images. That the same levels lead to the same tries is what lets a search go on after an
interruption: it is told again what it was told before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

from ncbatch.codec.target import Target

PILOT, MIDDLE = 0.15, 0.5
"""Shares of the steps after which lmbda is corrected."""
TAILS = (0.7, 0.85, 0.9)
"""From where the last steps are gone over again, one after the other."""
MOST = 1.56
"""Of the steps of one encoding that a search may take."""

_RANGE = math.log(64)
"""How far lmbda may be from a model's own, as a logarithm: beyond, next to nothing changes."""
_CLAMP = 4.0
"""A slope is within this factor of what is usual."""
_APART = 0.3
"""Two tries whose logarithms of lmbda are closer say nothing of the slope."""
_ENOUGH = 0.8
"""Of the tolerance: what is this near is not tried again."""
_SPAN, _LATE_SPAN = math.log(8), math.log(3)
"""The largest correction of the logarithm of lmbda at once; the last steps cannot follow a larger one."""


@dataclass(frozen=True)
class _Usual:
    """What is usual of a level under a model with lmbda = 0.01.

    Attributes:
        up: growth with the logarithm of lmbda, above a model's own, and
        down: below it.
        refined: what refinement adds to the amortized encoding, at the model's own lmbda.
        falls: by how much less it adds as the logarithm of that lmbda grows, up to 0.01.
        late: what rounded latents gain after the pilot, and after the middle.
    """

    up: float
    down: float
    refined: float
    falls: float
    late: tuple[float, float]

    def added(self, lmbda: float) -> float:
        """By refinement, under a model of this lmbda."""
        return self.refined - self.falls * math.log(min(lmbda / 0.01, 1.0))

    def slopes(self, lmbda: float) -> tuple[float, float]:
        """Above and below a model's own lmbda: refinement can do more with a model of low rate."""
        factor = math.sqrt(0.01 / lmbda)
        return self.up * factor, self.down * factor


_RATE = _Usual(0.07, 0.13, 0.03, 0.08, (-0.01, 0.0))
_QUALITY = _Usual(0.3, 1.2, 1.2, 0.4, (0.35, 0.2))
"""Measured on a crop of a photograph with the preset fast; the search finds out what is otherwise."""
_OWN_SHARE = 0.4
"""Of the way to the next model's level: up to there a model is stretched, since models give less above their
own lmbda than below it."""
_HESITATION = 0.2
"""By how much more of the way another model must be the better choice, since a change costs a pilot."""


@dataclass(frozen=True)
class Try:
    """Some steps under one lmbda.

    Attributes:
        model: of the ladder, by its index.
        lmbda: the weight of the distortion.
        first: the share of the schedule's steps from which they go, and
        last: to which; 1 where the result could be published.
        anew: whether they begin at the encoder network's latents, and not where the last ones ended.
    """

    model: int
    lmbda: float
    first: float
    last: float
    anew: bool = False


class TargetSearch:
    """Asks for tries, one after the other: `ask`, and `tell` what level came of it, until `ask` gives None.

    Args:
        target: what is to be met.
        lmbdas: that the models of the ladder were trained with, ascending.
        amortized: the level of a model's amortized encoding, by its index; asked for those near the target.

    Attributes:
        tries: that were told of.
        best: the index of the one nearest to the target among those that went to the end; None before.
    """

    def __init__(self, target: Target, lmbdas: Sequence[float], amortized: Callable[[int], float]) -> None:
        self._goal, self._enough = target.level, _ENOUGH * target.tolerance
        self._usual = _RATE if target.is_rate else _QUALITY
        self._lmbdas, self._amortized = lmbdas, amortized
        self._known: dict[int, float] = {}
        self.tries: list[Try] = []
        self.best: int | None = None
        self._best_miss = math.inf
        self._course = self._tried()
        self._asked: Try | None = next(self._course)

    def ask(self) -> Try | None:
        """The next try; None where there is none."""
        return self._asked

    def tell(self, level: float) -> None:
        """What came of the try that was asked for."""
        assert self._asked is not None
        if self._asked.last == 1 and abs(level - self._goal) < self._best_miss:
            self.best, self._best_miss = len(self.tries), abs(level - self._goal)
        self.tries.append(self._asked)
        try:
            self._asked = self._course.send(level)
        except StopIteration:
            self._asked = None

    def end(self) -> None:
        """There is to be no further try."""
        self._course.close()
        self._asked = None

    def _tried(self) -> Generator[Try, float, None]:
        model, x = self._first()
        level = (yield Try(model, math.exp(x), 0, PILOT, anew=True)) + self._usual.late[0]
        spent = PILOT
        own = level - self._beyond(model, x)
        better = self._chosen(model, own, _HESITATION)
        if better != model:  # the levels of models differ as those of their amortized encodings do
            own += self._refined(better) - self._refined(model)
            model, x = better, self._aimed(better, own)
            level = (yield Try(model, math.exp(x), 0, PILOT, anew=True)) + self._usual.late[0]
            spent += PILOT
        line = self._line(model)
        line.add(x, level)
        x = line.at(self._goal)
        line.add(x, (yield Try(model, math.exp(x), PILOT, MIDDLE)) + self._usual.late[1])
        x, slope = line.at(self._goal, _LATE_SPAN), line.slope
        level = yield Try(model, math.exp(x), MIDDLE, 1)
        spent += 1 - PILOT
        line = self._line(model, slope)
        line.add(x, level)
        for first in TAILS:
            again = line.at(self._goal, _LATE_SPAN)
            spent += 1 - first
            if abs(level - self._goal) <= self._enough or again == x or spent > MOST:
                return
            x = again
            level = yield Try(model, math.exp(x), first, 1)
            line.add(x, level)

    def _first(self) -> tuple[int, float]:
        """The model to begin with, and the logarithm of lmbda."""
        at, seen = len(self._lmbdas) // 2, set[int]()
        while at not in seen:  # where two each point to the other, either does
            seen.add(at)
            at = self._chosen(at, self._refined(at))
        return at, self._aimed(at, self._refined(at))

    def _level(self, model: int) -> float:
        if model not in self._known:
            self._known[model] = self._amortized(model)
        return self._known[model]

    def _refined(self, model: int) -> float:
        """The level to be expected at a model's own lmbda."""
        return self._level(model) + self._usual.added(self._lmbdas[model])

    def _own(self, model: int) -> float:
        return math.log(self._lmbdas[model])

    def _line(self, model: int, slope: float | None = None) -> _Line:
        return _Line(self._own(model), *self._usual.slopes(self._lmbdas[model]), slope)

    def _beyond(self, model: int, x: float) -> float:
        """What a model usually gives more than at its own lmbda."""
        (up, down), apart = self._usual.slopes(self._lmbdas[model]), x - self._own(model)
        return apart * (up if apart > 0 else down)

    def _aimed(self, model: int, own: float) -> float:
        """Where the target is to be expected of a model with a level at its own lmbda."""
        line = self._line(model)
        line.add(self._own(model), own)
        return line.at(self._goal, _LATE_SPAN)

    def _chosen(self, model: int, own: float, hesitation: float = 0.0) -> int:
        """The model, with its level at its own lmbda, or the neighbour that is the better choice."""
        following = model + (1 if self._goal > own else -1)
        if not 0 <= following < len(self._lmbdas):
            return model
        gap = abs(self._refined(following) - self._refined(model))
        share = _OWN_SHARE if following > model else 1 - _OWN_SHARE
        return following if abs(self._goal - own) > (share + hesitation) * gap else model


class _Line:
    """Levels of one model as a function of the logarithm of lmbda, near the last of some points.

    Attributes:
        slope: as two points say; None before there are two that are far enough apart.
    """

    def __init__(self, own: float, up: float, down: float, slope: float | None) -> None:
        self._own, self._up, self._down, self.slope = own, up, down, slope
        self._points: list[tuple[float, float]] = []

    def add(self, x: float, level: float) -> None:
        """A further point."""
        if self._points and abs(x - self._points[-1][0]) >= _APART:
            last_x, last_level = self._points[-1]
            found = (level - last_level) / (x - last_x)
            self.slope = min(max(found, self._up / _CLAMP), self._down * _CLAMP)
        self._points.append((x, level))

    def at(self, level: float, span: float = _SPAN) -> float:
        """Where the level is to be expected, no further than the span from the last point."""
        x, here = self._points[-1]
        usual = self._up if level > here else self._down
        slope = self.slope or usual
        if (
            level < here
        ):  # levels fall faster than they rise, and too large a step is worse than too small a one
            slope = max(slope, self._up)
        found = x + min(max((level - here) / slope, -span), span)
        below = max((px for px, pl in self._points if pl < level), default=-math.inf)
        above = min((px for px, pl in self._points if pl > level), default=math.inf)
        if below < above:  # noise may have them the other way round
            found = _inside(found, below, above)
        return min(max(found, self._own - _RANGE), self._own + _RANGE)


def _inside(x: float, below: float, above: float) -> float:
    """What is nearest to x well inside an interval, one end of which may be infinite."""
    if math.isinf(below) or math.isinf(above):
        return x
    margin = 0.1 * (above - below)
    return min(max(x, below + margin), above - margin)
