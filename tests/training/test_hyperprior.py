"""The trained modules against CompressAI's, where it is installed, and states of trainings by those."""

import gzip
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ncbatch.training.hyperprior import GDN, FactorizedDensity, MeanScaleHyperprior, without_constants
from ncbatch.training.images import TrainingImages
from ncbatch.training.session import load_state
from ncbatch.training.settings import TrainingSettings
from ncbatch.training.trainer import Trainer

OLD_STATE = Path(__file__).parent / "data" / "state-with-compressai.pt.gz"
NEEDS_COMPRESSAI = "compares with CompressAI (extra zoo)"


def theirs(n: int, m: int) -> nn.Module:
    models = pytest.importorskip("compressai.models", reason=NEEDS_COMPRESSAI)
    torch.manual_seed(0)
    return models.MeanScaleHyperprior(n, m)


def ours_like(network: nn.Module, n: int, m: int) -> MeanScaleHyperprior:
    ours = MeanScaleHyperprior(n, m)
    ours.load_state_dict(without_constants(network.state_dict()))
    return ours


def test_parameters_are_compressais_by_name_shape_and_order() -> None:
    """The order counts, too: an optimizer's state knows its parameters by their numbers."""
    network = theirs(8, 12)
    wanted = [(name, p.shape) for name, p in network.named_parameters()]
    assert [(name, p.shape) for name, p in MeanScaleHyperprior(8, 12).named_parameters()] == wanted
    # ... and so that CompressAI reads ours, nothing else is there.
    assert set(MeanScaleHyperprior(8, 12).state_dict()) == {name for name, _ in wanted}


def test_initial_weights_are_distributed_as_compressais() -> None:
    network = theirs(24, 32)
    torch.manual_seed(0)
    ours = dict(MeanScaleHyperprior(24, 32).named_parameters())
    for name, parameter in network.named_parameters():
        mine, other = ours[name].detach(), parameter.detach()
        if not name.startswith("h_"):  # drawn in the same order, so the same
            assert torch.allclose(mine, other, rtol=1e-6, atol=0), name
        bound = 1 / math.sqrt(other[0].numel()) if other.ndim == 4 else 0.5
        assert mine.mean().item() == pytest.approx(other.mean().item(), abs=bound), name
        assert mine.std().item() == pytest.approx(other.std().item(), rel=0.5, abs=1e-6), name


@pytest.mark.parametrize("part", ["g_a", "h_a", "h_s", "g_s"])
def test_transforms_and_their_gradients_are_compressais(part: str) -> None:
    network = theirs(8, 12)
    with torch.no_grad():  # some parameters of GDN below their bound, where its gradient is special
        for name, parameter in network.named_parameters():
            if name.endswith(("beta", "gamma")):
                parameter.add_(torch.randn_like(parameter) * 0.5)
    ours = ours_like(network, 8, 12)
    channels = {"g_a": 3, "h_a": 12, "h_s": 8, "g_s": 12}[part]
    x = torch.randn(2, channels, 32, 32, generator=torch.Generator().manual_seed(1))
    results = []
    for modules in (network, ours):
        values = x.clone().requires_grad_()
        out = getattr(modules, part)(values)
        (out * torch.linspace(-1, 2, out.shape[-1])).sum().backward()
        gradients = {name: p.grad for name, p in getattr(modules, part).named_parameters()}
        results.append((out, values.grad, gradients))
    (out, wrt_input, wrt_weights), (my_out, my_input, my_weights) = results
    assert wrt_input is not None and my_input is not None
    assert torch.equal(out, my_out)
    if part in ("h_a", "h_s"):
        assert torch.equal(wrt_input, my_input)
    else:  # GDN has a backward pass of its own, which multiplies in another order
        assert _same_but_for_rounding(my_input, wrt_input)
    assert wrt_weights.keys() == my_weights.keys()
    for name, gradient in wrt_weights.items():
        assert gradient.any() and _same_but_for_rounding(my_weights[name], gradient), name


def _same_but_for_rounding(ours: Tensor, theirs: Tensor) -> bool:
    """In float32: to a millionth of the largest value, which sums of values of either sign may lose."""
    return torch.allclose(ours, theirs, rtol=1e-5, atol=1e-6 * theirs.abs().max().item())


def test_density_its_gradients_and_its_quantiles_are_compressais() -> None:
    bottleneck: Any = theirs(8, 12).entropy_bottleneck
    with torch.no_grad():
        for name, parameter in bottleneck.named_parameters():
            if name != "quantiles":
                parameter.add_(torch.randn_like(parameter) * 0.3)
    ours = FactorizedDensity(8)
    ours.load_state_dict(dict(bottleneck.named_parameters()))
    z = (torch.randn(8, 1, 50, generator=torch.Generator().manual_seed(1)) * 4).requires_grad_()
    mass, my_mass = bottleneck._likelihood(z)[0], ours.likelihood(z)
    assert torch.equal(mass, my_mass)
    loss, my_loss = bottleneck.loss(), ours.quantile_loss()
    assert torch.equal(loss, my_loss)
    (mass.log().sum() + loss).backward()
    (my_mass.log().sum() + my_loss).backward()
    mine = dict(ours.named_parameters())
    for name, parameter in bottleneck.named_parameters():
        gradient = mine[name].grad
        assert gradient is not None and parameter.grad.any(), name
        assert torch.equal(gradient, parameter.grad), name


def test_gdn_divides_by_the_norm_and_its_inverse_multiplies() -> None:
    x = torch.randn(1, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    for inverse in (False, True):
        layer = GDN(4, inverse=inverse)
        with torch.no_grad():
            layer.gamma.copy_(torch.rand(4, 4).sqrt())
            norm = (1 + torch.einsum("ij,bjhw->bihw", layer.gamma**2, x**2)).sqrt()
            assert torch.allclose(layer(x), x * norm if inverse else x / norm, atol=1e-5)


def test_gdns_parameters_below_their_bound_can_rise_but_not_sink() -> None:
    layer = GDN(3)
    with torch.no_grad():
        layer.gamma.fill_(-1.0)  # as a large step of the optimizer may leave them
    x = torch.ones(1, 3, 2, 2)
    assert torch.allclose(layer(x), x, atol=1e-5)
    layer(x).sum().backward()  # falls when gamma rises
    assert layer.gamma.grad is not None and bool((layer.gamma.grad < 0).all())
    layer.zero_grad()
    layer(x).sum().neg().backward()
    assert layer.gamma.grad is not None and not bool(layer.gamma.grad.any())


def integer_images() -> TrainingImages:
    """Of integer arithmetic alone: the same on every machine."""
    y, x = np.mgrid[0:80, 0:96]
    planes = [np.stack([x * 2 + s, y * 3 + 7 * s, (x + y) * (s + 1)], -1) % 256 for s in range(3)]
    return TrainingImages([plane.astype(np.uint8) for plane in planes])


def test_a_training_by_compressais_modules_goes_on_as_it_would_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """The state was saved at step 3 by a release that trained those; `later` is what it saw afterwards.

    That was on a machine that computes in float32; another with bfloat16 differs by a few thousandths.
    """
    monkeypatch.setattr("ncbatch.training.trainer.fast_dtype", lambda device: torch.float32)
    state = load_state(gzip.decompress(OLD_STATE.read_bytes()), OLD_STATE.name)
    assert "network.g_a.1.beta_reparam.pedestal" in state["model"]
    trainer = Trainer(TrainingSettings(**state["settings"]), integer_images(), torch.device("cpu"))
    trainer.restore(state)
    assert trainer.step == 3
    reports = [(r.loss, r.gradient_norm) for r in trainer.run()]
    assert len(reports) == 5
    np.testing.assert_allclose(reports, state["later"], rtol=1e-4)


def test_a_saved_state_is_read_back_as_it_was() -> None:
    settings = TrainingSettings(lmbda=0.01, steps=4, n=2, m=3, crop=64, batch_size=2, warmup=2)
    first = Trainer(settings, integer_images(), torch.device("cpu"))
    reports = first.run()
    for _ in range(2):
        next(reports)
    sink = io.BytesIO()
    torch.save(first.state(), sink)
    second = Trainer(settings, integer_images(), torch.device("cpu"))
    second.restore(load_state(sink.getvalue(), "state"))
    assert [r.loss for r in reports] == [r.loss for r in second.run()]


@pytest.mark.parametrize("inverse", [False, True])
def test_the_backward_pass_of_gdn_is_its_derivative(inverse: bool) -> None:
    """By finite differences in float64, of the input and of the stored parameters."""
    random = torch.Generator().manual_seed(3)
    gdn = GDN(3, inverse=inverse).double()
    x = torch.randn(2, 3, 4, 5, generator=random, dtype=torch.float64, requires_grad=True)
    beta = (gdn.beta.detach() + 0.5).requires_grad_()
    gamma = (gdn.gamma.detach() + 0.3 * torch.rand(3, 3, generator=random)).requires_grad_()

    def normalized(x: Tensor, beta: Tensor, gamma: Tensor) -> Any:
        return torch.func.functional_call(gdn, {"beta": beta, "gamma": gamma}, (x,))

    assert torch.autograd.gradcheck(normalized, (x, beta, gamma))
