import math

import numpy as np
import pytest
import torch

from ncbatch.codec.noise import Noise
from ncbatch.codec.relaxation import Annealing, rounding_logit, stochastic_gumbel_annealing


def closed_form(fraction: float, tau: float) -> float:
    """Probability of rounding up: softmax of -atanh(distance) / tau over floor and ceiling (eq. 10)."""
    down, up = math.exp(-math.atanh(fraction) / tau), math.exp(-math.atanh(1 - fraction) / tau)
    return up / (down + up)


@pytest.mark.parametrize("tau", [0.1, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("fraction", [0.01, 0.2, 0.5, 0.7, 0.99])
def test_rounding_probability_is_the_closed_form(fraction, tau):
    logit = rounding_logit(torch.tensor(fraction, dtype=torch.float64), tau)
    assert torch.sigmoid(logit).item() == pytest.approx(closed_form(fraction, tau), rel=1e-9)


@pytest.mark.parametrize("fraction", [0.1, 0.4, 0.8])
def test_samples_round_up_as_often_as_the_closed_form_says(fraction):
    """The relaxed sample is above one half exactly when the categorical sample is the ceiling."""
    tau, count = 0.5, 200_000
    counter = torch.arange(count, dtype=torch.int32)
    uniform = Noise(3, b"picture").uniform("y", 0, counter)
    sample = stochastic_gumbel_annealing(torch.full((count,), 4 + fraction), tau, uniform) - 4
    expected = closed_form(fraction, tau)
    deviation = math.sqrt(expected * (1 - expected) / count)
    assert (sample > 0.5).float().mean().item() == pytest.approx(expected, abs=5 * deviation)


def test_sample_is_distributed_as_a_gumbel_softmax_of_two():
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


@pytest.mark.parametrize("tau", [0.05, 0.2, 0.5])
def test_gradient_is_the_finite_difference(tau):
    generator = torch.Generator().manual_seed(1)
    values = torch.rand(300, generator=generator, dtype=torch.float64) * 0.96 + 0.02
    values += torch.randint(-9, 9, (300,), generator=generator)
    uniform = torch.rand(300, generator=generator, dtype=torch.float64) * 0.98 + 0.01
    proxy = values.clone().requires_grad_()
    stochastic_gumbel_annealing(proxy, tau, uniform).sum().backward()
    step = 1e-6
    difference = (
        stochastic_gumbel_annealing(values + step, tau, uniform)
        - stochastic_gumbel_annealing(values - step, tau, uniform)
    ) / (2 * step)
    assert proxy.grad is not None
    assert torch.allclose(proxy.grad, difference, rtol=1e-5, atol=1e-6)


def test_cold_samples_are_rounded_values():
    values = torch.tensor([0.1, 0.9, -3.2, 7.7])
    sample = stochastic_gumbel_annealing(values, 1e-3, torch.full((4,), 0.5))
    assert torch.allclose(sample, values.round(), atol=1e-4)


def test_gradient_survives_whole_numbers():
    proxy = torch.tensor([2.0, -1.0], requires_grad=True)
    sample = stochastic_gumbel_annealing(proxy, 0.5, torch.tensor([0.5, 0.5]))
    sample.sum().backward()
    assert torch.allclose(sample, proxy, atol=1e-3) and bool(proxy.grad.isfinite().all())


def test_schedule_is_the_papers():
    tau = Annealing.scaled_to(2000)
    assert (tau.tau0, tau.rate, tau.plateau) == (0.5, 1e-3, 700)
    assert tau(0) == tau(700) == 0.5
    assert tau(1700) == pytest.approx(0.5 * math.exp(-1))
    short = Annealing.scaled_to(200)
    assert [short(t) for t in (0, 70, 150, 200)] == pytest.approx([tau(10 * t) for t in (0, 70, 150, 200)])
