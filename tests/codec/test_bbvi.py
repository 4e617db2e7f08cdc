import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ncbatch.codec.bits_back import bbvi
from ncbatch.codec.bits_back.bbvi import BbviSettings, infer, net_rate, rate_gradient
from ncbatch.codec.bits_back.image_stack import infer_posteriors
from ncbatch.codec.model.hyperprior import Model, to_tensor
from ncbatch.codec.refinement.latents import round_y
from ncbatch.models import zoo

CPU = torch.device("cpu")
NEEDS_CUDA = pytest.param(
    "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
)


@pytest.fixture(scope="module")
def y_hat(posterior_model: Model, crops: list[np.ndarray]) -> Tensor:
    return round_y(posterior_model.analyse(to_tensor(crops[1], posterior_model.device))[0])


def start(model: Model, y_hat: Tensor) -> Tensor:
    return torch.cat(infer(model, y_hat, BbviSettings(0, 0.0)), 1)


def test_without_steps_it_is_the_encoder_network(posterior_model: Model, y_hat: Tensor) -> None:
    network = posterior_model.hyper_analysis(y_hat.float())
    assert torch.allclose(start(posterior_model, y_hat).float(), network, atol=1e-4)


def test_gradient_is_the_finite_difference(posterior_model: Model, y_hat: Tensor) -> None:
    parameters = start(posterior_model, y_hat)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(parameters.chunk(2, 1)[0].shape, generator=generator, dtype=torch.float64)
    gradient = rate_gradient(posterior_model, y_hat.double(), parameters, noise)
    for _ in range(3):
        direction = torch.randn(parameters.shape, generator=generator, dtype=torch.float64)
        step = 1e-6
        with torch.no_grad():
            up, down = (
                net_rate(posterior_model, y_hat.double(), parameters + s * step * direction, noise).item()
                for s in (1, -1)
            )
        assert (up - down) / (2 * step) == pytest.approx((gradient * direction).sum().item(), rel=1e-4)


def test_the_rate_is_bits_of_y_and_z_less_those_got_back(posterior_model: Model, y_hat: Tensor) -> None:
    """Against torch's own distributions, and the prior's density by differences of its cumulative."""
    parameters = start(posterior_model, y_hat)
    mean, log_variance = parameters.chunk(2, 1)
    noise = torch.full_like(mean, 0.3)
    q = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    z = mean + q.scale * noise
    scales, means = posterior_model.precise_hyper_synthesis(z).chunk(2, 1)
    p = torch.distributions.Normal(means, scales.clamp_min(0.11))
    mass = (p.cdf(y_hat + 0.5) - p.cdf(y_hat - 0.5)).clamp_min(1e-9)
    channels = z.transpose(0, 1).reshape(posterior_model.info.n, 1, -1)
    h = 1e-5
    high, low = (posterior_model.precise_prior.logits(channels + s * h).sigmoid() for s in (1, -1))
    density = (high - low) / (2 * h)
    expected = -mass.log2().sum() - density.log2().sum() + q.log_prob(z).sum() / math.log(2)
    rate = net_rate(posterior_model, y_hat.double(), parameters, noise)
    assert rate.item() == pytest.approx(expected.item(), rel=1e-4)


def test_inference_saves_bits(posterior_model: Model, y_hat: Tensor) -> None:
    noise = torch.randn(30, *start(posterior_model, y_hat).chunk(2, 1)[0].shape, dtype=torch.float64)

    def rate(parameters: Tensor) -> float:
        with torch.no_grad():
            return sum(net_rate(posterior_model, y_hat.double(), parameters, n).item() for n in noise)

    inferred = torch.cat(infer(posterior_model, y_hat, BbviSettings(100, 2e-2)), 1)
    assert rate(inferred) < rate(start(posterior_model, y_hat))


def test_twice_the_same_and_nearly_so_with_noisy_gradients(
    posterior_model: Model, y_hat: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = BbviSettings(30, 3e-3)
    first, second = (torch.cat(infer(posterior_model, y_hat, settings), 1) for _ in range(2))
    assert torch.equal(first, second)
    generator = torch.Generator().manual_seed(0)

    def noisy(*args: Any) -> Tensor:
        gradient = rate_gradient(*args)
        return gradient * (1 + 1e-9 * torch.randn(gradient.shape, generator=generator, dtype=torch.float64))

    monkeypatch.setattr(bbvi, "rate_gradient", noisy)
    third = torch.cat(infer(posterior_model, y_hat, settings), 1)
    assert 0 < (third - first).abs().max() < 1e-7


def test_images_together_are_inferred_as_alone_up_to_the_last_bits(
    posterior_model: Model, crops: list[np.ndarray]
) -> None:
    """What a GPU does with a batch; the margins of the corrections are a million times wider."""
    images = [crops[1], crops[1][::-1].copy(), crops[0][:64, :64].copy()]
    y_hats = torch.cat(
        [round_y(posterior_model.analyse(to_tensor(i, posterior_model.device))[0]) for i in images]
    )
    settings = BbviSettings(30, 3e-3)
    together = torch.cat(infer(posterior_model, y_hats, settings), 1)
    alone = torch.cat([torch.cat(infer(posterior_model, y[None], settings), 1) for y in y_hats])
    assert torch.allclose(together, alone, rtol=0, atol=1e-9)


@pytest.mark.parametrize("device", ["cpu", NEEDS_CUDA])
def test_posteriors_of_a_batch_are_those_of_its_images(
    posterior_model: Model, crops: list[np.ndarray], device: str
) -> None:
    there = Model(zoo.load_builtin("bits-back-0.010"), device) if device != "cpu" else posterior_model
    images = [crops[1], crops[1][::-1].copy()]
    y_hats = torch.cat([round_y(posterior_model.analyse(to_tensor(image, CPU))[0]) for image in images])
    settings = BbviSettings(30, 3e-3)
    found = infer_posteriors(there, y_hats.to(device), settings)
    for one, y in zip(found, y_hats, strict=True):
        (alone,) = infer_posteriors(posterior_model, y[None], settings)
        assert torch.equal(one.y_hat.cpu(), y[None]) and one.posterior.checksum == alone.posterior.checksum
