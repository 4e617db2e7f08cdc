import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ncbatch.codec.errors import ModelError
from ncbatch.codec.model import exact_hyper_synthesis
from ncbatch.codec.model.checkpoint import Checkpoint
from ncbatch.codec.model.exact_hyper_synthesis import ExactHyperSynthesis, IntegerLayer, quantize_layer
from ncbatch.codec.model.hyperprior import Model, to_tensor

CPU = torch.device("cpu")


def reference(layers: list[IntegerLayer], z_hat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """h_s in int64 with explicit loops over the taps: no floats anywhere."""
    x = z_hat.astype(np.int64) * 16
    for index, (layer, upsamples) in enumerate(zip(layers, exact_hyper_synthesis.UPSAMPLES, strict=True)):
        weight = layer.weight.numpy().astype(np.int64)
        if index:
            x = np.where(x < 0, (x * 655) >> 16, x)
        _, height, width = x.shape
        size = weight.shape[-1]
        if upsamples:
            full = np.zeros((weight.shape[1], 2 * height + 4, 2 * width + 4), np.int64)
            for u in range(size):
                for v in range(size):
                    full[:, u : u + 2 * height : 2, v : v + 2 * width : 2] += np.einsum(
                        "ihw,io->ohw", x, weight[:, :, u, v]
                    )
            total = full[:, 2 : 2 + 2 * height, 2 : 2 + 2 * width]
        else:
            padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
            total = np.zeros((weight.shape[0], height, width), np.int64)
            for u in range(size):
                for v in range(size):
                    total += np.einsum(
                        "ihw,oi->ohw", padded[:, u : u + height, v : v + width], weight[:, :, u, v]
                    )
        total = total + layer.bias.numpy()[:, None, None]
        x = (2 * total + (1 << layer.shift)) >> (layer.shift + 1)
        x = np.clip(x, -exact_hyper_synthesis.MAX_ACTIVATION, exact_hyper_synthesis.MAX_ACTIVATION)
    scales, means = np.split((x + 8) >> 4, 2)
    return means, np.clip(scales, exact_hyper_synthesis.MIN_SIGMA, exact_hyper_synthesis.MAX_SIGMA)


@pytest.fixture(scope="module")
def z_hat() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(-20 * 256, 20 * 256, (2, 64, 5, 7), generator=generator, dtype=torch.int32)


def test_floats_give_the_integers_of_integer_arithmetic(checkpoint: Checkpoint, z_hat: Tensor) -> None:
    layers = checkpoint.integer_layers()
    mu, sigma = ExactHyperSynthesis(layers, CPU)(z_hat)
    for i in range(2):
        means, scales = reference(layers, z_hat[i].numpy())
        assert np.array_equal(mu[i].numpy(), means)
        assert np.array_equal(sigma[i].numpy(), scales)


def test_the_same_at_the_edge_of_the_range(checkpoint: Checkpoint) -> None:
    layers = checkpoint.integer_layers()
    z_hat = torch.full((1, 64, 2, 2), exact_hyper_synthesis.MAX_Z_SYMBOL * 256, dtype=torch.int32)
    z_hat[:, ::2] *= -1
    means, scales = reference(layers, z_hat[0].numpy())
    mu, sigma = ExactHyperSynthesis(layers, CPU)(z_hat)
    assert np.array_equal(mu[0].numpy(), means) and np.array_equal(sigma[0].numpy(), scales)


def test_independent_of_layout_threads_and_batch(checkpoint: Checkpoint, z_hat: Tensor) -> None:
    synthesis = ExactHyperSynthesis(checkpoint.integer_layers(), CPU)
    expected = synthesis(z_hat)
    variants = [
        z_hat.contiguous(memory_format=torch.channels_last),
        z_hat.transpose(2, 3).contiguous().transpose(2, 3),
    ]
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            for variant in variants:
                assert all(torch.equal(a, b) for a, b in zip(synthesis(variant), expected, strict=True))
            alone = synthesis(z_hat[1:])
            assert all(torch.equal(a, b[1:]) for a, b in zip(alone, expected, strict=True))
    finally:
        torch.set_num_threads(before)


def test_close_to_the_float_network(checkpoint: Checkpoint, model: Model, photograph: np.ndarray) -> None:
    """On the z of a photograph; what the rounding costs in bits is measured in test_encode."""
    y, z = model.analyse(to_tensor(photograph, CPU))
    symbols = model.round(y, z).z
    mu, sigma = model.coding_parameters(symbols)
    x = symbols.double() + model.medians
    weights = {k: v.double() for k, v in checkpoint.section("h_s").items()}
    for i, upsamples in enumerate(exact_hyper_synthesis.UPSAMPLES):
        w, b = weights[f"{2 * i}.weight"], weights[f"{2 * i}.bias"]
        x = F.leaky_relu(x, 0.01) if i else x
        x = F.conv_transpose2d(x, w, b, 2, 2, 1) if upsamples else F.conv2d(x, w, b, padding=1)
    scales, means = x.chunk(2, 1)
    scales = scales.clamp_min(0.11)
    for fixed, real in ((mu, means), (sigma, scales)):
        error = (fixed / 256 - real).abs()
        # A tenth of a sigma costs (0.1^2 / 2) / ln 2 = 0.007 bits.
        assert error.mean() < 0.002 and (error / scales).max() < 0.1


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 2), (2, 4, 6)])
def test_the_products_of_other_devices_are_the_same_sums(
    checkpoint: Checkpoint, shape: tuple[int, int, int]
) -> None:
    batch, height, width = shape
    exact, generator = ExactHyperSynthesis(checkpoint.integer_layers(), CPU), torch.Generator().manual_seed(0)
    for index, layer in enumerate(checkpoint.integer_layers()):
        upsamples = exact_hyper_synthesis.UPSAMPLES[index]
        channels = layer.weight.shape[0 if upsamples else 1]
        limit = exact_hyper_synthesis.MAX_ACTIVATION
        x = torch.randint(-limit, limit, (batch, channels, height, width), generator=generator).double()
        weight, bias = layer.weight.double(), layer.bias.double()
        products = exact_hyper_synthesis.sums_by_products(x, weight, bias, upsamples=upsamples)
        assert torch.equal(products, exact.sums(index, x))


def test_weights_that_would_not_be_exact_are_refused() -> None:
    weight = torch.ones(4000, 8, 5, 5)
    with pytest.raises(ModelError, match="too large"):
        quantize_layer(weight, torch.zeros(8), upsamples=True)
    with pytest.raises(ModelError, match="finite"):
        quantize_layer(torch.full((4, 4, 5, 5), torch.nan), torch.zeros(4), upsamples=True)


def test_headroom_of_the_builtin_model(checkpoint: Checkpoint) -> None:
    """Partial sums of real activations stay at least 2**10 below the limit of exactness."""
    for layer, upsamples in zip(checkpoint.integer_layers(), exact_hyper_synthesis.UPSAMPLES, strict=True):
        summed = (0, 2, 3) if upsamples else (1, 2, 3)
        largest = layer.weight.long().abs().sum(summed).max().item()
        assert largest * (1 << 15) < (1 << 53) >> 10


def test_threads_that_share_a_model_get_their_own_answers(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Model(checkpoint)
    monkeypatch.setattr(model, "_exact", lambda z, _: (z, z))  # fast, so that the threads meet often
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def ask(width: int) -> None:
        for _ in range(3000):
            z = torch.zeros((1, checkpoint.info.n, 1, width), dtype=torch.int32)
            assert model.coding_parameters(z)[0].shape[3] == width

    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(ask, (1, 2, 3, 4)))
    finally:
        sys.setswitchinterval(interval)
