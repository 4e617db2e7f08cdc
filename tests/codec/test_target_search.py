"""The search for a target on made-up curves of rate and quality: no image, no model."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from ncbatch.codec.target import Measured, Target, decibels
from ncbatch.codec.target_search import MOST, PILOT, TargetSearch, Try

LMBDAS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08)
BPP = (0.104, 0.212, 0.345, 0.510, 0.687, 0.867, 1.083)
PSNR = (25.9, 28.1, 30.1, 31.8, 33.1, 33.9, 34.6)


@dataclass
class Curve:
    """What refinement gives under each model: concave in the logarithm of lmbda, as on photographs.

    Attributes:
        own: level of each model's amortized encoding.
        refined: what refinement adds at the model's own lmbda.
        reach: how much more than that there is in all, above the model's own lmbda.
        early: what a rounded iterate lacks at the beginning.
        noise: standard deviation of a level.
        inert: share of a change of lmbda that the last steps do not follow.
    """

    own: tuple[float, ...]
    refined: float = 0.08
    reach: float = 0.2
    early: float = 0.015
    noise: float = 0.0
    inert: float = 0.4
    seed: int = 0
    asked: list[int] = field(default_factory=list)

    def amortized(self, model: int) -> float:
        self.asked.append(model)
        return self.own[model]

    def of(self, model: int, lmbda: float) -> float:
        """Of an encoding with the lmbda given directly."""
        apart = math.log(lmbda / LMBDAS[model])
        reach = self.reach * math.sqrt(0.01 / LMBDAS[model])
        return self.own[model] + self.refined + reach * (1 - math.exp(-apart / 2))

    def met(self, target: Target) -> tuple[TargetSearch, float, float]:
        """A search carried to its end, the steps it took in shares of one encoding, and by how much it
        missed.
        """
        search, chance = TargetSearch(target, LMBDAS, self.amortized), random.Random(self.seed)
        state, steps, levels = 0.0, 0.0, []
        while asked := search.ask():
            there = self.of(asked.model, asked.lmbda)
            follows = 1 - self.inert if asked.first > 0.6 else 1.0
            state = there if asked.anew else state + follows * (there - state)
            levels.append(state + chance.gauss(0, self.noise) - self.early * (1 - asked.last))
            steps += asked.last - asked.first
            search.tell(levels[-1])
        assert search.best is not None
        whole = [i for i, each in enumerate(search.tries) if each.last == 1]
        missed = [abs(levels[i] - target.level) for i in whole]
        assert search.best == whole[missed.index(min(missed))], "the nearest of those that went to the end"
        return search, steps, min(missed)


RATES = tuple(math.log(bpp) for bpp in BPP)


@pytest.mark.parametrize("bpp", [0.09, 0.12, 0.2, 0.3, 0.42, 0.5, 0.62, 0.8, 1.1, 1.2])
@pytest.mark.parametrize("seed", range(4))
def test_a_rate_is_met_within_a_percent_and_a_few_more_steps(bpp: float, seed: int) -> None:
    curve = Curve(RATES, noise=0.002, seed=seed)
    _, steps, missed = curve.met(Target("bpp", bpp))
    assert missed <= 0.01 and steps <= MOST
    assert len(curve.asked) <= 6, "models far from the target are not asked"


@pytest.mark.parametrize("psnr", [25.5, 27.0, 29.0, 31.2, 32.5, 34.0, 35.2, 36.0])
@pytest.mark.parametrize("seed", range(4))
def test_a_quality_is_met_within_a_twentieth_of_a_decibel(psnr: float, seed: int) -> None:
    curve = Curve(PSNR, refined=0.9, reach=1.5, early=0.4, noise=0.01, seed=seed)
    _, steps, missed = curve.met(Target("psnr", psnr))
    assert missed <= 0.05 and steps <= MOST


def test_on_average_a_search_takes_few_more_steps_than_an_encoding() -> None:
    runs = [
        Curve(RATES, noise=0.002, seed=seed).met(Target("bpp", bpp))
        for bpp in (0.12, 0.2, 0.42, 0.62, 0.8, 1.1)
        for seed in range(5)
    ]
    assert sum(steps for _, steps, _ in runs) / len(runs) < 1.4


def test_a_pilot_that_finds_another_model_better_crosses_over() -> None:
    """Refinement adds far more than usual, so the model chosen by amortized encodings is too high."""
    search, steps, missed = Curve(RATES, refined=0.6).met(Target("bpp", 0.7))
    assert [each.model for each in search.tries][:2] == [search.tries[0].model, search.tries[0].model - 1]
    assert [each.anew for each in search.tries[:3]] == [True, True, False]
    assert missed <= 0.01 and steps <= MOST


@pytest.mark.parametrize(("bpp", "model"), [(1e-6, 0), (50.0, 6)])
def test_what_no_model_can_do_ends_at_the_nearest(bpp: float, model: int) -> None:
    curve = Curve(RATES)
    search, steps, missed = curve.met(Target("bpp", bpp))
    assert search.best is not None and search.tries[search.best].model == model
    assert missed > 1 and steps <= MOST
    apart = math.log(search.tries[search.best].lmbda / LMBDAS[model])
    assert abs(apart) > 2, "as far as lmbda goes, or nearly so"


def test_noise_that_never_settles_ends_all_the_same() -> None:
    search, steps, _ = Curve(RATES, noise=0.3, seed=1).met(Target("bpp", 0.5))
    assert steps <= MOST + 1e-9 and len(search.tries) <= 7


def test_levels_that_do_not_move_at_all_end_it() -> None:
    _, steps, missed = Curve((math.log(0.5),) * 7, reach=0.0, early=0.0).met(Target("bpp", 0.7))
    assert steps <= MOST and missed == pytest.approx(math.log(0.7 / 0.5) - 0.08)


def test_one_model_is_stretched_as_far_as_it_goes() -> None:
    goal = Target("bpp", 0.5)
    search = TargetSearch(goal, (0.01,), lambda model: math.log(0.51))
    level = math.nan
    while asked := search.ask():
        assert asked.model == 0
        level = math.log(0.51) + 0.08 + 0.2 * (1 - math.exp(-math.log(asked.lmbda / 0.01) / 2))
        search.tell(level)
    assert search.best is not None and search.tries[search.best].lmbda < 0.007
    assert level == pytest.approx(goal.level, abs=0.01)


def test_the_same_levels_lead_to_the_same_tries() -> None:
    """What an interrupted search goes on by."""
    told: list[tuple[Try, float]] = []
    search = TargetSearch(Target("psnr", 31.0), LMBDAS, lambda model: PSNR[model])
    chance = random.Random(3)
    while asked := search.ask():
        told.append((asked, 30.5 + chance.random()))
        search.tell(told[-1][1])
    again = TargetSearch(Target("psnr", 31.0), LMBDAS, lambda model: PSNR[model])
    for asked, level in told:
        assert again.ask() == asked
        again.tell(level)
    assert again.ask() is None and again.best == search.best


def test_the_first_try_is_short_and_the_later_ones_go_on() -> None:
    search, _, _ = Curve(RATES, noise=0.004, inert=0.9).met(Target("bpp", 0.3))
    first, *others = search.tries
    assert (first.first, first.last, first.anew) == (0, PILOT, True)
    assert all(not each.anew for each in others) and others[1].last == 1
    assert all(each.first > 0.5 and each.last == 1 for each in others[2:])


MEASURED: Callable[..., Measured] = lambda **more: Measured(  # noqa: E731
    **{"bytes": 1000, "pixels": 16000, "psnr": 32.0, "ms_ssim": 0.99, **more}
)


def test_levels_are_logarithms_of_rates_and_decibels_of_qualities() -> None:
    measured = MEASURED()
    assert Target("bytes", 1000).level_of(measured) == math.log(1000)
    assert Target("bpp", 2).level_of(measured) == math.log(0.5) and Target("bpp", 2).came_of(measured) == 0.5
    assert Target("psnr", 30).level_of(measured) == 32
    assert Target("ssim", 0.98).level_of(measured) == pytest.approx(20)
    assert Target("ssim", 0.98).came_of(measured) == 0.99
    assert Target("ssim", 17).came_of(measured) == pytest.approx(20)
    assert Target("ssim", 0.98).level == pytest.approx(decibels(0.98)) == pytest.approx(16.99, abs=0.01)


def test_a_target_is_met_within_its_tolerance() -> None:
    assert Target("bytes", 1009).is_met_by(MEASURED()) and not Target("bytes", 1011).is_met_by(MEASURED())
    assert Target("psnr", 32.049).is_met_by(MEASURED()) and not Target("psnr", 31.94).is_met_by(MEASURED())
    assert Target("bytes", 103).is_met_by(MEASURED(bytes=100)), "files grow by four bytes at a time"
    assert not Target("bpp", 0.52).is_met_by(MEASURED())


def test_an_image_that_came_back_exactly_has_a_level() -> None:
    assert Target("psnr", 60).level_of(MEASURED(psnr=math.inf)) == 100
    assert Target("ssim", 0.99).level_of(MEASURED(ms_ssim=1.0)) == 100
