import numpy as np
import torch
from scipy.stats import norm

from ncbatch.codec.model.rates import gaussian_bits, lower_bound


def test_bits_are_the_gaussian_mass() -> None:
    values = torch.linspace(-6, 6, 97, dtype=torch.float64)
    for sigma in (0.11, 0.5, 3.0):
        mass = norm.cdf((values + 0.5) / sigma) - norm.cdf((values - 0.5) / sigma)
        bits = gaussian_bits(values, torch.full_like(values, sigma))
        assert np.allclose(bits, -np.log2(np.maximum(mass, 1e-9)), rtol=1e-9, atol=1e-9)


def test_gradients_are_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    values = (torch.randn(64, generator=generator, dtype=torch.float64) * 2).requires_grad_()
    sigma = (torch.rand(64, generator=generator, dtype=torch.float64) * 2 + 0.6).requires_grad_()
    assert torch.autograd.gradcheck(gaussian_bits, (values, sigma))


def test_outliers_are_still_pulled_back() -> None:
    value = torch.tensor([40.0], requires_grad=True)
    bits = gaussian_bits(value, torch.tensor([5.0]))
    bits.backward()
    assert value.grad is not None
    assert bits.item() < 30 and value.grad.item() > 0


def test_lower_bound_lets_values_return() -> None:
    x = torch.tensor([-1.0, -1.0, 2.0], requires_grad=True)
    lower_bound(x, 0.0).backward(torch.tensor([-1.0, 1.0, 1.0]))
    assert x.grad is not None
    assert x.grad.tolist() == [-1.0, 0.0, 1.0]
