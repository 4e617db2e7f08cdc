"""The frozen transforms against CompressAI's own modules."""

from copy import deepcopy
from typing import Any

import pytest
import torch

from ncbatch.codec.model.checkpoint import Checkpoint, export
from ncbatch.codec.model.hyperprior import STRIDE, Model, Tile
from ncbatch.codec.model.prior import FactorizedPrior
from ncbatch.codec.model.rates import SCALE_BOUND
from ncbatch.codec.model.transforms import SUBPIXELS, InverseGDN, Transform
from ncbatch.models import catalog

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def network(checkpoint: Checkpoint) -> Any:
    """CompressAI's MeanScaleHyperprior with the built-in weights."""
    models = pytest.importorskip("compressai.models", reason="compares with CompressAI (extra zoo)")
    network = models.MeanScaleHyperprior(checkpoint.info.n, checkpoint.info.m)
    torch.nn.Module.load_state_dict(network, checkpoint.state_dict(), strict=False)
    return network.eval()


@pytest.mark.parametrize(
    ("kind", "shape"),
    [("g_a", (2, 3, 64, 128)), ("h_a", (2, 128, 8, 4)), ("h_s", (2, 64, 2, 1)), ("g_s", (2, 128, 4, 8))],
)
def test_transforms_are_compressais(
    checkpoint: Checkpoint, network: Any, kind: str, shape: tuple[int, ...]
) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    ours = Transform(checkpoint.section(kind), kind, torch.float32, CPU)(x)
    with torch.no_grad():
        theirs = getattr(network, kind)(x)
    assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4 * theirs.abs().max().item())


def test_gradients_are_autograds(checkpoint: Checkpoint, network: Any) -> None:
    y = torch.randn(1, 128, 2, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    weight = torch.randn(1, 3, 32, 48, generator=torch.Generator().manual_seed(1))
    synthesis = Transform(checkpoint.section("g_s"), "g_s", torch.float32, CPU)
    ours = torch.autograd.grad((synthesis(y) * weight).sum(), y)[0]
    theirs = torch.autograd.grad((network.g_s(y) * weight).sum(), y)[0]
    assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4 * theirs.abs().max().item())


def test_subpixels_are_the_image_rearranged(checkpoint: Checkpoint) -> None:
    y = torch.randn(1, 128, 4, 6, generator=torch.Generator().manual_seed(0))
    weights = checkpoint.section("g_s")
    image = Transform(weights, "g_s", torch.float32, CPU)(y)
    subpixels = Transform(weights, "g_s", torch.float32, CPU, subpixels=SUBPIXELS)(y)
    assert subpixels.shape == (1, 12, 32, 48)
    assert torch.allclose(torch.pixel_shuffle(subpixels, 2), image, atol=1e-5)


def test_inverse_gdn_gradient_is_the_finite_difference() -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(1, 3, 4, 4, dtype=torch.float64, generator=generator, requires_grad=True)
    gamma = torch.rand(3, 3, 1, 1, dtype=torch.float64, generator=generator)
    beta = torch.rand(3, dtype=torch.float64, generator=generator) + 0.5
    transposed = gamma.transpose(0, 1).contiguous()
    assert torch.autograd.gradcheck(lambda v: InverseGDN.apply(v, gamma, beta, transposed), (x,))


def test_prior_is_compressais_and_its_gradient_autograds(checkpoint: Checkpoint, network: Any) -> None:
    z = torch.randn(2, 64, 3, 2, generator=torch.Generator().manual_seed(0)) * 3
    prior = FactorizedPrior(checkpoint.section("prior"), torch.float32, CPU)
    channels = z.transpose(0, 1).reshape(64, -1)
    # In float64, since CompressAI's difference of sigmoids cancels in the tails, where ours does not.
    bottleneck = deepcopy(network.entropy_bottleneck).double()
    theirs = bottleneck._likelihood(channels.double().unsqueeze(1))[0].squeeze(1)
    assert torch.allclose(prior.likelihood(channels).double(), theirs, rtol=1e-3, atol=1e-9)
    values = z.clone().requires_grad_()
    bits = prior.bits(values)
    assert bits.shape == (2,)
    expected = -torch.log2(theirs.clamp_min(1e-9)).reshape(64, 2, -1).sum((0, 2))
    assert torch.allclose(bits.double(), expected, rtol=1e-4)
    bits.sum().backward()
    assert values.grad is not None and bool(values.grad.isfinite().all()) and bool(values.grad.any())


def test_tables_of_z_are_the_density_on_the_grid(checkpoint: Checkpoint) -> None:
    """Frequencies stored in the checkpoint, against the float64 density; escapes cost next to nothing."""
    coding = checkpoint.section("z")
    prior = FactorizedPrior(checkpoint.section("prior"), torch.float64, CPU)
    tables = torch.split(coding["frequencies"].double(), coding["lengths"].tolist())
    for channel in range(0, 64, 7):
        table = tables[channel] / tables[channel].sum()
        symbols = int(coding["first"][channel]) + torch.arange(len(table) - 1, dtype=torch.float64)
        values = torch.zeros(64, len(symbols), dtype=torch.float64) + symbols
        values = values + coding["median"].double().unsqueeze(1) / 256
        mass = prior.likelihood(values)[channel]
        assert torch.allclose(table[:-1], mass, rtol=1e-3, atol=1e-6)
        assert table[-1] < 1e-5


@pytest.mark.parametrize(("height", "width"), [(4, 4), (68, 4), (64, 132), (100, 100)])
def test_tiles_cover_every_latent_once(height: int, width: int) -> None:
    count = torch.zeros(1, 1, height, width)
    for tile in Tile.cover(height, width):
        count[:, :, tile.top : tile.bottom, tile.left : tile.right] += 1
    assert bool((count == 1).all())


def test_tiles_give_what_the_whole_gives(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward and backward: two latents of halo are enough for four 5x5 layers."""
    from ncbatch.codec.model import hyperprior as module

    generator = torch.Generator().manual_seed(0)
    images = torch.rand(1, 3, 128, 192, generator=generator)
    y = torch.randn(1, 128, 8, 12, generator=generator)
    whole_y, whole = model.analyse(images)[0], model.synthesise(y)
    monkeypatch.setattr(module, "_TILE", 3)
    assert torch.allclose(model.analyse(images)[0], whole_y, atol=1e-4)
    assert torch.allclose(model.synthesise(y), whole, atol=1e-5)
    monkeypatch.setattr(module, "_HALO", 1)
    assert not torch.allclose(model.synthesise(y), whole, atol=1e-4)
    assert STRIDE == 16


@pytest.mark.parametrize(("height", "width"), [(4, 4), (8, 12), (60, 4)])
def test_pixels_do_not_depend_on_the_number_of_threads(model: Model, height: int, width: int) -> None:
    """Else a run decoded again, by a process with fewer threads, would differ from itself."""
    y = torch.randn(1, 128, height, width, generator=torch.Generator().manual_seed(0)) * 4
    before, images = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            images.append(model.synthesise(y))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(image, images[0]) for image in images)


def test_bound_of_sigma_is_the_coders(model: Model) -> None:
    from ncbatch.codec.model.exact_hyper_synthesis import MIN_SIGMA

    assert abs(MIN_SIGMA / 256 - SCALE_BOUND) < 1 / 512


def test_zoo_sized_weights_load_and_code() -> None:
    """CompressAI's mbt2018-mean of quality 1..4 is MeanScaleHyperprior(128, 192), its weights as they are."""
    from ncbatch.codec.encode import encode
    from ncbatch.codec.methods import Amortized
    from ncbatch.training.hyperprior import MeanScaleHyperprior

    torch.manual_seed(0)
    checkpoint = export(MeanScaleHyperprior(128, 192).state_dict(), lmbda=0.0067, dtype=torch.float32)
    pixels = torch.randint(0, 256, (40, 70, 3), dtype=torch.uint8).numpy()
    encoded = encode(Model(checkpoint), [pixels], Amortized(lmbda=0.0067))[0]
    assert encoded.outcome.data.startswith(b"NCB") and (encoded.height, encoded.width) == (40, 70)


def test_builtin_model_is_found_by_rate() -> None:
    assert "base-0.010" in catalog.builtin_models()
    assert catalog.nearest_builtin(0.0101) == "base-0.010"
