import numpy as np
import pytest
import torch
from scipy.stats import norm

from ncbatch.codec.model.hyperprior import Model
from ncbatch.codec.model.rates import SCALE_BOUND, gaussian_bits, gaussian_gradients, lower_bound


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


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_gradients_written_out_are_autograds(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(2)
    values = torch.randn(2, 30, 5, 7, generator=generator, dtype=dtype) * 6
    values[0, 0, 0, :3] = torch.tensor([0.0, 0.5, 300.0])  # on a kink, on a bound, beyond the floor
    scales = torch.rand(2, 30, 5, 7, generator=generator, dtype=dtype) * 3 - 0.2  # some below the bound
    leaves = values.requires_grad_(), scales.requires_grad_()
    gaussian_bits(values, lower_bound(scales, SCALE_BOUND)).sum().backward()
    tolerance = 1e-12 if dtype == torch.float64 else 2e-5
    for leaf, written in zip(leaves, gaussian_gradients(values, scales), strict=True):
        assert leaf.grad is not None
        assert ((written - leaf.grad).abs() <= tolerance * (1 + leaf.grad.abs())).all()


@pytest.mark.parametrize("spread", [3.0, 60.0])
@pytest.mark.parametrize("batch", [1, 3])
def test_gradient_of_the_prior_written_out_is_autograds(model: Model, spread: float, batch: int) -> None:
    generator = torch.Generator().manual_seed(3)
    z = (torch.randn(batch, model.info.n, 2, 5, generator=generator) * spread).requires_grad_()
    model.prior.bits(z).sum().backward()
    assert z.grad is not None
    assert torch.allclose(model.prior.gradient(z), z.grad, rtol=1e-5, atol=1e-5)
