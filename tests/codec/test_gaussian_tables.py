import hashlib
import math

import numpy as np
import pytest

from ncbatch.codec.gaussian_tables import TABLE_BITS, _half_distribution, coarse, coarse_mean, gaussian_tables


def phi(t: float) -> float:
    return 0.5 * math.erfc(-t / math.sqrt(2))


def test_distribution_function_is_right_to_its_last_bit() -> None:
    table = _half_distribution()
    expected = np.array([(phi(i / 1024) - 0.5) * 2**30 for i in range(len(table))])
    assert np.all(table <= expected + 1e-6) and np.all(table > expected - 1 - 1e-6)


def test_distribution_function_is_the_same_on_every_machine() -> None:
    # The reason for building it from integers. A change of this value makes all old files unreadable.
    digest = hashlib.sha256(_half_distribution().astype("<i8").tobytes()).hexdigest()
    assert digest.startswith("4a950a84e58596d8")


@pytest.mark.parametrize("sigma", [28, 29, 100, 256, 2_000, 16_000, 65_535])
def test_frequencies_are_the_gaussian_masses(sigma: int) -> None:
    tables = gaussian_tables(np.array([sigma]))
    table, reach, scale = tables.table(0), int(tables.reach[0]), sigma / 256
    mass = [phi((k + 0.5) / scale) - phi((k - 0.5) / scale) for k in range(-reach, reach + 1)]
    assert np.abs(table[:-1] / 2**TABLE_BITS - mass).max() < 3e-7
    assert table.min() >= 1
    assert table[-1] / 2**TABLE_BITS < 1e-7  # the escape costs next to nothing
    assert np.array_equal(table[:-1], table[:-1][::-1])


@pytest.mark.parametrize("sigma", [28, 100, 300, 5_000])
@pytest.mark.parametrize("offset", [-128, -57, 1, 127])
def test_frequencies_of_means_between_integers(sigma: int, offset: int) -> None:
    tables = gaussian_tables(np.array([sigma]), np.array([offset]))
    table, reach, scale, mean = tables.table(0), int(tables.reach[0]), sigma / 256, offset / 256
    symbols = range(-reach, reach + 1)
    mass = [phi((k + 0.5 - mean) / scale) - phi((k - 0.5 - mean) / scale) for k in symbols]
    assert np.abs(table[:-1] / 2**TABLE_BITS - mass).max() < 3e-7
    assert table.min() >= 1 and abs(table.sum() / 2**TABLE_BITS - 1) < 1e-6 + len(table) / 2**TABLE_BITS
    mirrored = gaussian_tables(np.array([sigma]), np.array([-offset])).table(0)
    if offset > -128:
        assert np.array_equal(table[:-1], mirrored[:-1][::-1])


def test_coding_with_the_tables_costs_what_the_gaussian_says() -> None:
    """Relative entropy of table to Gaussian, in bits per symbol, at every scale."""
    for sigma in (28, 64, 256, 1024, 8192):
        tables = gaussian_tables(np.array([sigma]))
        table, reach, scale = tables.table(0), int(tables.reach[0]), sigma / 256
        p = np.array([phi((k + 0.5) / scale) - phi((k - 0.5) / scale) for k in range(-reach, reach + 1)])
        q = table / table.sum()
        used = p > 0
        assert 0 <= np.sum(p[used] * np.log2(p[used] / q[:-1][used])) + 1e-9 < 1e-6


def test_tables_of_many_sigmas_are_those_of_each() -> None:
    sigmas = np.array([28, 31, 500, 4_000])
    together = gaussian_tables(sigmas)
    for i, sigma in enumerate(sigmas):
        assert np.array_equal(together.table(i), gaussian_tables(np.array([sigma])).table(0))


def test_coarse_sigmas_have_seven_significant_bits() -> None:
    """Against the specification, for every sigma that there is."""
    every = np.arange(1 << 16, dtype=np.int32)
    found = coarse(every)
    dropped = [max(sigma.bit_length() - 7, 0) for sigma in every.tolist()]
    expected = [min((sigma + (1 << t) // 2) >> t << t, 65024) for sigma, t in enumerate(dropped)]
    assert found.tolist() == expected and found.dtype == np.int32
    assert np.array_equal(coarse(found), found) and len(set(found[28:].tolist())) == 676
    assert np.abs(found[128:] / every[128:] - 1).max() <= 2**-7


def test_coarse_means_lie_within_a_thirty_second_of_sigma() -> None:
    mean = np.arange(-40_000, 40_000, 7, dtype=np.int32)
    for sigma in (28, 31, 32, 100, 128, 1024, 8192, 65024):
        found = coarse_mean(mean, np.full_like(mean, sigma))
        t = max(sigma.bit_length() - 5, 0)
        assert found.tolist() == [(m + (1 << t) // 2) >> t << t for m in mean.tolist()]
        assert found.dtype == np.int32
        assert np.abs(found - mean).max() <= sigma / 32


def test_coarse_parameters_cost_next_to_nothing() -> None:
    """Relative entropy of the coarse table to the Gaussian, in bits per symbol."""
    random = np.random.default_rng(2)
    sigmas = np.exp(random.uniform(np.log(28), np.log(20_000), 300)).astype(np.int32)
    means = random.integers(-128, 128, 300).astype(np.int32)
    coarse_sigmas = coarse(sigmas)
    coarse_means = coarse_mean(means, coarse_sigmas)
    losses = []
    for sigma, mean, other, centre in zip(sigmas, means, coarse_sigmas, coarse_means, strict=True):
        whole = int(centre) + 128 >> 8
        tables = gaussian_tables(np.array([other], np.int64), np.array([centre - 256 * whole], np.int64))
        q = tables.table(0) / tables.table(0).sum()
        reach = int(tables.reach[0])
        edges = [(256 * (k + whole) - 128 - int(mean)) / int(sigma) for k in range(-reach, reach + 2)]
        p = np.diff([phi(edge) for edge in edges])
        used = p > 0
        losses.append(np.sum(p[used] * np.log2(p[used] / q[:-1][used])))
    assert max(losses) < 8e-4 and np.mean(losses) < 2e-4
