import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ncbatch.codec.methods import LEARNED, DeterministicAnnealing, Map, Refined, Sga, Ste, UniformNoise
from ncbatch.codec.refinement.noise import ImageNoise
from ncbatch.codec.refinement.relaxation import Heat, Relaxation, rounding_logit, stochastic_gumbel_annealing


def closed_form(fraction: float, tau: float) -> float:
    """Probability of rounding up: softmax of -atanh(distance) / tau over floor and ceiling (eq. 10)."""
    down, up = math.exp(-math.atanh(fraction) / tau), math.exp(-math.atanh(1 - fraction) / tau)
    return up / (down + up)


@pytest.mark.parametrize("tau", [0.1, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("fraction", [0.01, 0.2, 0.5, 0.7, 0.99])
def test_rounding_probability_is_the_closed_form(fraction: float, tau: float) -> None:
    logit = rounding_logit(torch.tensor(fraction, dtype=torch.float64), tau)
    assert torch.sigmoid(logit).item() == pytest.approx(closed_form(fraction, tau), rel=1e-9)


@pytest.mark.parametrize("fraction", [0.1, 0.4, 0.8])
def test_samples_round_up_as_often_as_the_closed_form_says(fraction: float) -> None:
    """The relaxed sample is above one half exactly when the categorical sample is the ceiling."""
    tau, count = 0.5, 200_000
    counter = torch.arange(count, dtype=torch.int32)
    uniform = ImageNoise(3, b"picture").uniform("y", 0, counter)
    sample = stochastic_gumbel_annealing(torch.full((count,), 4 + fraction), tau, uniform) - 4
    expected = closed_form(fraction, tau)
    deviation = math.sqrt(expected * (1 - expected) / count)
    assert (sample > 0.5).float().mean().item() == pytest.approx(expected, abs=5 * deviation)


def test_sample_is_distributed_as_a_gumbel_softmax_of_two() -> None:
    """One logistic variable stands for the difference of two Gumbel ones: compare all quantiles."""
    tau, fraction, count = 0.3, 0.35, 400_000
    rng = np.random.default_rng(0)
    logits = np.array([-math.atanh(fraction), -math.atanh(1 - fraction)]) / tau
    perturbed = (logits + rng.gumbel(size=(count, 2))) / tau
    two = 1 / (1 + np.exp(perturbed[:, 0] - perturbed[:, 1]))
    uniform = torch.from_numpy(rng.random(count))
    one = stochastic_gumbel_annealing(
        torch.full((count,), fraction, dtype=torch.float64), tau, uniform
    ).numpy()
    levels = np.linspace(0.01, 0.99, 33)
    # In probability, not in value: the quantiles are steep near 0 and 1.
    assert np.abs(np.searchsorted(np.sort(one), np.quantile(two, levels)) / count - levels).max() < 5e-3


@pytest.mark.parametrize("rounding", ["atanh", "linear", "cosine", "ssl"])
@pytest.mark.parametrize("tau", [0.05, 0.2, 0.5])
def test_gradient_is_the_finite_difference(tau: float, rounding: Any) -> None:
    generator = torch.Generator().manual_seed(1)
    values = torch.rand(300, generator=generator, dtype=torch.float64) * 0.96 + 0.02
    values += torch.randint(-9, 9, (300,), generator=generator)
    uniform = torch.rand(300, generator=generator, dtype=torch.float64) * 0.98 + 0.01
    proxy = values.clone().requires_grad_()
    stochastic_gumbel_annealing(proxy, tau, uniform, rounding).sum().backward()
    step = 1e-6
    difference = (
        stochastic_gumbel_annealing(values + step, tau, uniform, rounding)
        - stochastic_gumbel_annealing(values - step, tau, uniform, rounding)
    ) / (2 * step)
    assert proxy.grad is not None
    assert torch.allclose(proxy.grad, difference, rtol=1e-5, atol=1e-6)


def test_less_noise_is_less_spread_around_the_same_median() -> None:
    uniform = (torch.arange(1001, dtype=torch.float64) + 0.5) / 1001
    values = torch.full_like(uniform, 0.3)
    full, half, none = (
        stochastic_gumbel_annealing(values, 0.5, uniform, "linear", noise) for noise in (1.0, 0.5, 0.0)
    )
    assert full.std() > half.std() > 0 and none.std() == 0
    assert full[500] == pytest.approx(none[500].item(), abs=1e-9)
    assert none[0].item() == pytest.approx(0.3**4 / (0.3**4 + 0.7**4))  # tau enters twice


def test_cold_samples_are_rounded_values() -> None:
    values = torch.tensor([0.1, 0.9, -3.2, 7.7])
    sample = stochastic_gumbel_annealing(values, 1e-3, torch.full((4,), 0.5))
    assert torch.allclose(sample, values.round(), atol=1e-4)


def test_gradient_survives_whole_numbers() -> None:
    proxy = torch.tensor([2.0, -1.0], requires_grad=True)
    sample = stochastic_gumbel_annealing(proxy, 0.5, torch.tensor([0.5, 0.5]))
    sample.sum().backward()
    assert torch.allclose(sample, proxy, atol=1e-3) and proxy.grad is not None
    assert bool(proxy.grad.isfinite().all())


def test_schedule_is_the_papers() -> None:
    paper = Sga(lmbda=0.01)
    assert (paper.tau0, paper.annealing_rate, paper.plateau) == (0.5, 1e-3, 700)
    assert paper.tau(0) == paper.tau(700) == 0.5
    assert paper.tau(1700) == pytest.approx(0.5 * math.exp(-1))
    short = Sga(lmbda=0.01, steps=200)
    expected = [paper.tau(10 * t) for t in (0, 70, 150, 200)]
    assert [short.tau(t) for t in (0, 70, 150, 200)] == pytest.approx(expected)


def test_schedule_of_deterministic_annealing_is_the_papers() -> None:
    recipe = DeterministicAnnealing(lmbda=0.01)
    for step in (0, 100, 402, 403, 1000, 2000):
        assert recipe.tau(step) == pytest.approx(min(math.exp(-4e-3 * step), 0.2))


def test_naive_schedule_and_free_ones() -> None:
    naive = Sga(lmbda=0.01, plateau=0, annealing_rate=2e-3, tau0=0.8)
    assert [naive.tau(t) for t in (0, 500)] == pytest.approx([0.8, 0.8 * math.exp(-1)])
    assert Sga(lmbda=0.01, steps=100, tau0=1.0).plateau == 35


def test_steps_that_come_as_words_have_a_schedule_too() -> None:
    assert Sga(lmbda=0.01, steps="200") == Sga(lmbda=0.01, steps=200)
    with pytest.raises(ValueError, match="steps"):
        Sga(lmbda=0.01, steps="many")


def test_learning_rates() -> None:
    assert Ste(lmbda=0.01).learning_rate == 1e-4
    assert Map(lmbda=0.01).learning_rate == 5e-3
    cosine = Sga(lmbda=0.01, steps=100, learning_rate=0.05, decay="cosine")
    assert [cosine.learning_rate_at(t) for t in (0, 50, 100)] == pytest.approx([0.05, 0.0255, 0.001])
    assert Sga(lmbda=0.01).learning_rate_at(1999) == 5e-3


@pytest.mark.parametrize("method", ["map", "ste", "uniform-noise"])
def test_methods_without_temperature_say_so(method: str) -> None:
    with pytest.raises(ValueError, match="no temperature"):
        LEARNED[method].model_validate({"lmbda": 0.01, "tau0": 0.5})
    with pytest.raises(ValueError, match="rounding is a setting of the method sga"):
        LEARNED[method].model_validate({"lmbda": 0.01, "rounding": "ssl"})


PROBABILITIES = {
    "linear": lambda f: f,
    "cosine": lambda f: math.sin(f * math.pi / 2) ** 2,
    "ssl": lambda f: 1 / (1 + (1 / f - 1) ** 2.3),
}


@pytest.mark.parametrize("rounding", PROBABILITIES)
@pytest.mark.parametrize("fraction", [0.02, 0.3, 0.5, 0.9])
def test_roundings_of_sga_plus_are_their_closed_forms(rounding: Any, fraction: float) -> None:
    up, value = PROBABILITIES[rounding](fraction), torch.tensor(fraction, dtype=torch.float64)
    at_one = torch.sigmoid(rounding_logit(value, 1.0, rounding)).item()
    assert at_one == pytest.approx(up, rel=1e-6)
    colder = torch.sigmoid(rounding_logit(value, 0.25, rounding)).item()
    assert colder == pytest.approx(up**4 / (up**4 + (1 - up) ** 4), rel=1e-5)


@pytest.mark.parametrize("rounding", ["atanh", *PROBABILITIES])
def test_every_rounding_has_finite_gradients_at_whole_numbers(rounding: Any) -> None:
    values = torch.tensor([2.0, -1.0, 0.5, 1 - 1e-7], requires_grad=True)
    sample = stochastic_gumbel_annealing(values, 0.5, torch.full((4,), 0.3), rounding)
    sample.sum().backward()
    assert bool(sample.isfinite().all()) and values.grad is not None
    assert bool(values.grad.isfinite().all())


def relaxed(values: Tensor, kind: type[Refined], step: int = 0, uniform: Tensor | None = None) -> Tensor:
    relaxation = Relaxation(kind(lmbda=0.01))
    heat = Heat(*values.new_tensor(relaxation.heat(step)))
    noise = None if uniform is None else relaxation.noise(uniform, heat.scale)
    return relaxation(values, heat, noise)


def test_map_leaves_values_as_they_are() -> None:
    values = torch.tensor([0.3, -2.7])
    assert torch.equal(relaxed(values, kind=Map), values)


def test_straight_through_rounds_with_the_identitys_gradient() -> None:
    values = torch.tensor([0.3, -2.7, 4.0], requires_grad=True)
    rounded = relaxed(values, kind=Ste)
    rounded.sum().backward()
    assert values.grad is not None
    assert rounded.tolist() == [0.0, -3.0, 4.0] and values.grad.tolist() == [1.0, 1.0, 1.0]


def test_uniform_noise_is_the_trainings() -> None:
    values, uniform = torch.tensor([0.3, -2.7]), torch.tensor([0.1, 0.9])
    noisy = relaxed(values, uniform=uniform, kind=UniformNoise)
    assert torch.allclose(noisy, values + uniform - 0.5)


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.8])
def test_deterministic_annealing_is_the_mean_under_the_closed_form(fraction: float) -> None:
    values = torch.tensor([3 + fraction, -5 + fraction], dtype=torch.float64)
    mean = relaxed(values, step=900, kind=DeterministicAnnealing)
    tau = math.exp(-4e-3 * 900)
    expected = closed_form(fraction, tau)
    assert mean.tolist() == pytest.approx([3 + expected, -5 + expected], abs=1e-9)
