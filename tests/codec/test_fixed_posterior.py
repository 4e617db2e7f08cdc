import numpy as np
import pytest
import torch

from ncbatch.codec.ans import draw_gaussian, new_coder
from ncbatch.codec.bits_back.fixed_posterior import _MARGIN, _SIGMAS, Posterior, snap, snap_corrected
from ncbatch.codec.bits_back.image_stack import _drawn_bits
from ncbatch.codec.errors import BitstreamError

SHAPE = (5, 30, 40)


def parameters(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mean = 3 * torch.randn(SHAPE, generator=generator, dtype=torch.float64)
    return mean, torch.randn(SHAPE, generator=generator, dtype=torch.float64)


def test_no_table_entry_depends_on_the_last_bit_of_an_exponential() -> None:
    exact = 256 * 16 * np.exp(np.arange(-24, 25, dtype=np.longdouble) / 8)
    assert np.array_equal(_SIGMAS, np.rint(exact).astype(int))
    assert (np.abs(exact - np.floor(exact) - 0.5) > 1e-6).all()


def test_snapped_parameters_are_near_to_the_real_ones() -> None:
    mean, log_variance = parameters()
    posterior, _ = snap(mean, log_variance)
    snapped_mean, snapped_log_variance = posterior.real
    assert (snapped_mean - mean).abs().max() <= 1 / 128
    assert (snapped_log_variance - log_variance).abs().max() <= 1 / 8
    sigma = posterior.fixed_sigma / 256 / 16
    assert np.allclose(sigma, (0.5 * snapped_log_variance).exp().numpy(), rtol=0.01)
    assert np.array_equal(posterior.fixed_mean / 256 / 16, snapped_mean.numpy())


def test_what_is_beyond_the_tables_is_clamped() -> None:
    posterior, _ = snap(torch.tensor([[[1e9]]]).double(), torch.tensor([[[-1e9]]]).double())
    assert posterior.fixed_sigma.item() == _SIGMAS[0]
    assert posterior.real[0].item() == 1000


def test_a_decoder_within_the_margin_snaps_to_the_same() -> None:
    mean, log_variance = parameters()
    posterior, corrections = snap(mean, log_variance)
    listed = len(corrections) / (2 * mean.numel())
    assert 0.2 * _MARGIN < listed < 6 * _MARGIN  # two margins of a step on average
    generator = torch.Generator().manual_seed(1)
    for trial in range(20):
        sign = torch.rand(SHAPE, generator=generator).sub(0.5).sign().double() * 0.99 * _MARGIN
        other = snap_corrected(mean + sign / 64, log_variance + sign / 4, corrections)
        assert other.checksum == posterior.checksum, trial


def test_without_the_corrections_it_would_not() -> None:
    mean, log_variance = parameters()
    posterior, corrections = snap(mean, log_variance)
    assert corrections
    shifted = [snap_corrected(mean + s * _MARGIN / 64, log_variance + s * _MARGIN / 4, ()) for s in (-1, 1)]
    assert any(other.checksum != posterior.checksum for other in shifted)


def test_a_decoder_far_off_is_noticed() -> None:
    mean, log_variance = parameters()
    posterior, corrections = snap(mean, log_variance)
    assert snap_corrected(mean + 0.01, log_variance, corrections).checksum != posterior.checksum


def test_a_correction_of_nothing_is_an_error() -> None:
    with pytest.raises(BitstreamError, match="damaged"):
        snap_corrected(*parameters(), ((2 * 5 * 30 * 40, 1),))


@pytest.mark.parametrize("log_variance", [-24, -16, 0, 24])
def test_as_many_bits_are_drawn_as_the_density_says(log_variance: float) -> None:
    """On a grid too coarse for the narrowest posteriors it would be fewer, and the rate higher.

    The narrowest are 0.8 of the spacing wide, where 0.006 bits of 1.8 are lost by theory.
    """
    generator = np.random.default_rng(0)
    shape = (10, 30, 40)
    posterior = Posterior(
        generator.integers(-300, 300, shape, dtype=np.int32), np.full(shape, log_variance, np.int32)
    )
    stack = new_coder(generator.bytes(40_000))
    before = stack.num_bits()
    z = draw_gaussian(stack, posterior.fixed_sigma, posterior.fixed_mean)
    assert before - stack.num_bits() == pytest.approx(_drawn_bits(posterior, z), rel=5e-3)
