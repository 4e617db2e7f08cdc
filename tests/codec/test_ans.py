import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ncbatch.codec import ans
from ncbatch.codec.ans import MAX_SYMBOL, FactorizedTables
from ncbatch.codec.errors import BitstreamError


def tables() -> FactorizedTables:
    """Two channels: symbols -1..1 and 5..6, each with an escape."""
    first, lengths = np.array([-1, 5], np.int32), np.array([4, 3], np.int32)
    return FactorizedTables(first, lengths, np.array([10, 70, 19, 1, 60, 39, 1], np.int32))


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(st.integers(-MAX_SYMBOL, MAX_SYMBOL) | st.integers(-3, 3), st.integers(28, 65535)),
        max_size=60,
    )
)
def test_gaussian_symbols_come_back(pairs: list[tuple[int, int]]) -> None:
    symbols = np.array([p[0] for p in pairs], np.int32)
    sigma = np.array([p[1] for p in pairs], np.int32)
    stack = ans.new_coder()
    ans.push_gaussian(stack, symbols, sigma)
    again = ans.new_coder(ans.payload_of(stack))
    assert np.array_equal(ans.pop_gaussian(again, sigma), symbols)
    assert again.is_empty()


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(-(2**14), 2**14) | st.integers(-2, 7), min_size=8, max_size=8))
def test_factorized_symbols_come_back_escapes_included(values: list[int]) -> None:
    symbols = np.array(values, np.int32).reshape(2, 2, 2)
    stack = ans.new_coder()
    tables().push(stack, symbols)
    assert np.array_equal(tables().pop(ans.new_coder(ans.payload_of(stack)), (2, 2, 2)), symbols)


def test_stack_returns_last_pushed_first() -> None:
    stack = ans.new_coder()
    y, sigma = np.array([3, -7, 0], np.int32), np.array([300, 300, 28], np.int32)
    z = np.array([0, 6], np.int32).reshape(2, 1, 1)
    ans.push_gaussian(stack, y, sigma)
    tables().push(stack, z)
    assert np.array_equal(tables().pop(stack, (2, 1, 1)), z)
    assert np.array_equal(ans.pop_gaussian(stack, sigma), y)


def test_rate_is_the_information_content() -> None:
    rng = np.random.default_rng(0)
    sigma = np.clip(np.exp(rng.normal(0, 1.2, 50_000)) * 256, 28, 20_000).astype(np.int32)
    symbols = np.round(rng.normal(size=sigma.shape) * sigma / 256).astype(np.int32)
    stack = ans.new_coder()
    ans.push_gaussian(stack, symbols, sigma)
    from scipy.stats import norm

    scale = sigma / 256
    information = -np.log2(norm.cdf((symbols + 0.5) / scale) - norm.cdf((symbols - 0.5) / scale)).sum()
    assert len(ans.payload_of(stack)) * 8 == pytest.approx(information, rel=4e-4, abs=64)


def test_damaged_payload_gives_symbols_or_one_error() -> None:
    sigma = np.full(200, 300, np.int32)
    stack = ans.new_coder()
    ans.push_gaussian(stack, np.arange(200, dtype=np.int32) % 5, sigma)
    payload = bytearray(ans.payload_of(stack))
    rng = np.random.default_rng(1)
    for _ in range(300):
        damaged = bytearray(payload)
        damaged[rng.integers(len(damaged))] ^= 1 << rng.integers(8)
        try:
            symbols = ans.pop_gaussian(ans.new_coder(bytes(damaged)), sigma)
        except BitstreamError:
            continue
        assert symbols.shape == sigma.shape and np.abs(symbols).max() <= MAX_SYMBOL


def test_payload_ending_in_zeros_is_refused() -> None:
    with pytest.raises(BitstreamError, match="ANS"):
        ans.new_coder(bytes(8))


def test_symbols_around_means_between_integers_come_back_and_cost_what_they_should() -> None:
    random = np.random.default_rng(4)
    sigma = random.integers(28, 900, 20_000).astype(np.int32)
    mean = random.integers(-9000, 9000, 20_000).astype(np.int32)
    symbols = np.round(random.normal(mean / 256, sigma / 256)).astype(np.int32)
    stack = ans.new_coder()
    ans.push_gaussian(stack, symbols, sigma, mean)
    centre, scale = mean / 256, sigma / 256 * math.sqrt(2)
    upper, lower = (symbols + 0.5 - centre) / scale, (symbols - 0.5 - centre) / scale
    mass = [0.5 * (math.erf(u) - math.erf(v)) for u, v in zip(upper, lower, strict=True)]
    bits = -np.log2(mass).sum()
    assert bits < len(ans.payload_of(stack)) * 8 < 1.001 * bits + 64
    assert np.array_equal(ans.pop_gaussian(stack, sigma, mean), symbols)
    symbols[:3] = (1000, -1000, 70_000)  # escapes
    ans.push_gaussian(stack, symbols, sigma, mean)
    assert np.array_equal(ans.pop_gaussian(stack, sigma, mean), symbols)


def _posteriors(count: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(5)
    return (
        random.integers(51, 3000, (4, count)).astype(np.int32),
        random.integers(-30_000, 30_000, (4, count)).astype(np.int32),
    )


def test_drawn_samples_give_their_bits_back() -> None:
    sigma, mean = _posteriors(200)
    stack = ans.new_coder()
    ans.push_bytes(stack, np.random.default_rng(6).bytes(2000))
    before = ans.payload_of(stack)
    drawn = ans.draw_gaussian(stack, sigma, mean)
    deviations = (drawn * 256 - mean) / sigma
    assert 0.9 < deviations.std() < 1.1 and np.abs(deviations).max() < 12
    entropy = np.log2(np.hypot(sigma / 256, 12**-0.5) * math.sqrt(2 * math.pi * math.e)).sum()
    assert 0.95 * entropy < (len(before) - len(ans.payload_of(stack))) * 8 < 1.05 * entropy
    ans.return_gaussian(stack, drawn, sigma, mean)
    assert ans.payload_of(stack) == before


def test_a_sample_that_cannot_have_been_drawn_is_refused() -> None:
    sigma, mean = _posteriors(3)
    drawn = mean // 256
    drawn[2, 1] += 7 * sigma[2, 1] // 256 + 4
    with pytest.raises(BitstreamError, match="posterior"):
        ans.return_gaussian(ans.new_coder(), drawn, sigma, mean)


@pytest.mark.parametrize("data", [b"", b"\0\0\0\0\0", bytes(range(256)) * 3 + b"\0"])
def test_bytes_come_back(data: bytes) -> None:
    stack = ans.new_coder()
    ans.push_bytes(stack, data)
    assert ans.pop_bytes(stack, len(data)) == data
    assert stack.is_empty()
