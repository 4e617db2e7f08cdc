import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ncbatch.codec.decode import decode
from ncbatch.codec.encode import encode
from ncbatch.codec.methods import Amortized, Sga
from ncbatch.codec.model.checkpoint import export, parse
from ncbatch.codec.model.hyperprior import Model
from ncbatch.codec.model.prior import FactorizedPrior
from ncbatch.models import catalog, zoo
from ncbatch.training.network import BatchNoise, TrainableHyperprior
from ncbatch.training.trainer import _generator
from tests.training.conftest import make_image, settings


def network(kind: str, **fields: Any) -> TrainableHyperprior:
    torch.manual_seed(3)
    model = TrainableHyperprior(settings(kind=kind, **fields))
    with torch.no_grad():  # a density that is not the initial one
        for name, parameter in model.network.entropy_bottleneck.named_parameters():
            if not name.startswith("quantiles"):
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def test_density_of_z_integrates_to_one() -> None:
    model = network("bits-back")
    points = torch.linspace(-400, 400, 800_001).expand(8, 1, -1)
    with torch.no_grad():
        density = model.log_density(points).exp().double()
    assert torch.allclose(torch.trapezoid(density, dx=800 / 800_000), torch.ones(8, 1).double(), atol=2e-3)


@pytest.mark.parametrize("name", catalog.builtin_models("bits-back"))
def test_density_of_a_built_in_model_integrates_to_one(name: str) -> None:
    prior = FactorizedPrior(zoo.load_builtin(name).section("prior"), torch.float64, torch.device("cpu"))
    channels = len(prior.log_density(torch.zeros(64, 1, dtype=torch.float64)))
    points = torch.linspace(-400, 400, 80_001, dtype=torch.float64).expand(channels, -1)
    density = prior.log_density(points).exp()
    assert torch.allclose(torch.trapezoid(density, dx=800 / 80_000), torch.ones(64).double(), atol=1e-3)


def test_density_is_the_derivative_of_the_cumulative() -> None:
    model = network("bits-back").double()
    points = torch.linspace(-6, 6, 41, dtype=torch.float64).expand(8, 1, -1)
    bottleneck = model.network.entropy_bottleneck

    def cumulative(values: Tensor) -> Tensor:
        return torch.sigmoid(bottleneck.logits(values))

    slope = (cumulative(points + 1e-5) - cumulative(points - 1e-5)) / 2e-5
    assert torch.allclose(model.log_density(points).exp(), slope, rtol=1e-5, atol=1e-9)


def test_loss_of_the_base_kind_is_bits_and_squared_error() -> None:
    """Against torch's own distributions, given the same noisy latents."""
    model = network("base")
    images = torch.from_numpy(make_image(0, 64, 64)).permute(2, 0, 1)[None].float() / 255
    noise = model.noise([_generator(0, 0, 0)])
    with torch.no_grad():
        losses = model(images, noise)
        net = model.network
        y = net.g_a(images)
        z = net.h_a(y) + noise.z
        z_mass = net.entropy_bottleneck.likelihood(z.transpose(0, 1).reshape(8, 1, -1)).clamp_min(1e-9)
        scales, means = net.h_s(z).chunk(2, 1)
        gaussian = torch.distributions.Normal(means.double(), scales.double().clamp_min(0.11))
        noisy = (y + noise.y).double()
        y_mass = (gaussian.cdf(noisy + 0.5) - gaussian.cdf(noisy - 0.5)).clamp_min(1e-9)
        error = (net.g_s(y + noise.y) - images).square().mean() * 255**2
    bpp = -(torch.log2(z_mass).sum() + torch.log2(y_mass).sum()) / 64**2
    assert losses.bpp.item() == pytest.approx(bpp.item(), rel=1e-4)
    assert losses.mse.item() == pytest.approx(error.item(), rel=1e-4)
    assert losses.rd_loss(0.02).item() == pytest.approx(bpp.item() + 0.02 * error.item(), rel=1e-4)


def test_bits_back_are_those_of_the_posterior_sample() -> None:
    model = network("bits-back")
    parameters = torch.randn(2, 16, 1, 1)
    noise = torch.randn(2, 8, 1, 1)
    z, bits_z, bits_back = model._sample_z(parameters, noise)
    mean, log_variance = parameters.chunk(2, 1)
    posterior = torch.distributions.Normal(mean, (0.5 * log_variance.clamp_max(math.log(10))).exp())
    assert bits_back.item() == pytest.approx(-posterior.log_prob(z).sum().item() / math.log(2), rel=1e-5)
    channels = z.transpose(0, 1).reshape(8, 1, -1)
    assert bits_z.item() == pytest.approx(-model.log_density(channels).sum().item() / math.log(2), rel=1e-5)


def test_posteriors_width_is_capped_while_training() -> None:
    model = network("bits-back")
    parameters = torch.cat([torch.zeros(1, 8, 1, 1), torch.full((1, 8, 1, 1), 50.0)], 1)
    z, _, _ = model._sample_z(parameters, torch.ones(1, 8, 1, 1))
    assert torch.allclose(z, torch.full_like(z, math.sqrt(10)))


def test_a_posterior_that_is_too_wide_is_pulled_back() -> None:
    model = network("bits-back")
    for direction, passes in ((1.0, True), (-1.0, False)):
        parameters = torch.cat([torch.zeros(1, 8, 1, 1), torch.full((1, 8, 1, 1), 50.0)], 1).requires_grad_()
        z, _, _ = model._sample_z(parameters, torch.ones(1, 8, 1, 1))
        (direction * z.sum()).backward()
        assert parameters.grad is not None
        pulls = parameters.grad[:, 8:] > 0  # descent makes it narrower
        assert bool(pulls.all()) == passes
        assert bool(parameters.grad[:, 8:].any()) == passes


@pytest.mark.parametrize("kind", ["base", "bits-back"])
def test_gradients_reach_every_weight(kind: Any) -> None:
    model = network(kind)
    images = torch.rand(2, 3, 64, 64)
    model(images, model.noise([_generator(0, 0, i) for i in range(2)])).rd_loss(0.01).backward()
    for name, parameter in model.named_parameters():
        if not name.endswith("quantiles"):
            assert parameter.grad is not None and bool(parameter.grad.any()), name


@pytest.mark.parametrize("kind", ["base", "bits-back"])
@pytest.mark.parametrize("widths", [None, (4, 10, 14)])
def test_exported_weights_code_real_images(kind: Any, widths: Any) -> None:
    model = network(kind, widths=widths)
    exported = export(model.network.state_dict(), kind=kind, lmbda=0.01)
    checkpoint = parse(exported.to_bytes(), "x")
    assert (checkpoint.info.kind, checkpoint.info.widths) == (kind, widths)
    pixels = make_image(1, 70, 100)
    codec = Model(checkpoint)
    for recipe in (Amortized(lmbda=0.01), Sga(lmbda=0.01, steps=3)):
        encoded = encode(codec, [pixels], recipe)[0]
        assert decode(codec, encoded.outcome.data).shape == pixels.shape
        outcome = encoded.outcome
        assert outcome.bits_y is not None and outcome.bits_z is not None
        information = (outcome.bits_y + outcome.bits_z) / 8
        assert len(outcome.data) <= information * 1.005 + 40


def test_medians_of_the_bits_back_kind_halve_the_mass() -> None:
    model = network("bits-back")
    checkpoint = export(model.network.state_dict(), kind="bits-back", lmbda=0.01, dtype=torch.float32)
    medians = checkpoint.tensors["z.median"].float().view(-1, 1, 1) / 256
    bottleneck = model.network.entropy_bottleneck
    steepest = 0.3  # of the cumulative, per unit
    half = torch.sigmoid(bottleneck.logits(medians)).detach()
    assert torch.allclose(half, torch.full_like(half, 0.5), atol=steepest / 256)


def test_noise_of_a_sample_is_its_own() -> None:
    model = network("base")
    together = model.noise([_generator(1, 5, i) for i in range(3)])
    alone = model.noise([_generator(1, 5, 2)])
    assert torch.equal(together.y[2:], alone.y) and torch.equal(together.z[2:], alone.z)
    assert isinstance(alone, BatchNoise) and alone.y.abs().max() <= 0.5


def test_the_synthesis_of_rounded_latents_is_the_decoders_and_the_rate_stays() -> None:
    torch.manual_seed(0)
    noisy, rounded = (
        TrainableHyperprior(settings(synthesis_latents=latents)) for latents in ("noisy", "rounded")
    )
    rounded.load_state_dict(noisy.state_dict())
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    noise = noisy.noise([_generator(0, 0, i) for i in range(2)])
    there, here = noisy(images, noise), rounded(images, noise)
    assert here.bpp.item() == there.bpp.item() and here.mse.item() != there.mse.item()

    network = rounded.network
    with torch.no_grad():
        y = network.g_a(images)
        means = network.h_s(network.h_a(y) + noise.z).chunk(2, 1)[1]
        decoded = network.g_s((y - means).round() + means)
        assert here.mse.item() == pytest.approx(255**2 * F.mse_loss(decoded, images).item(), rel=1e-4)
    here.mse.backward()
    gradients = [p.grad for p in network.g_a.parameters()]
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)
