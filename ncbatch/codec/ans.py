"""ANS coding of the integer symbols of z and y with integer frequency tables.

The coder is a stack: what is pushed last is popped first. Every `push_*` leaves the stack so that the
matching `pop_*` returns the same symbols. Symbols outside a table are coded as an escape, followed by their
value in an Elias-gamma code.
"""

from typing import Any

import constriction
import numpy as np
from numpy.typing import NDArray

from ncbatch.codec.errors import BitstreamError
from ncbatch.codec.gaussian_tables import SIGMA_BITS, GaussianTables, gaussian_tables

# constriction is one binary module: its submodules are attributes, not importable by name.
_model = constriction.stream.model
AnsCoder = Any
"""constriction's `AnsCoder`, which comes without type information."""

MAX_SYMBOL = 2**20
"""Symbols of y lie within +-MAX_SYMBOL; refinement never gets near it, a hostile file might ask for more."""

_ESCAPE_BITS = 22  # 2 * MAX_SYMBOL + 1, zigzagged and plus one, fits

Symbols = NDArray[np.int32]


def new_coder(payload: bytes = b"") -> AnsCoder:
    """An ANS stack, empty or holding `payload` (little-endian 32-bit words)."""
    if not payload:
        return constriction.stream.stack.AnsCoder()
    try:
        return constriction.stream.stack.AnsCoder(np.frombuffer(payload, dtype="<u4").astype(np.uint32))
    except ValueError as error:
        raise BitstreamError(f"the payload is not an ANS stream ({error}); the file is damaged") from error


def payload_of(coder: AnsCoder) -> bytes:
    return coder.get_compressed().astype("<u4").tobytes()


def _push_escaped(coder: AnsCoder, value: int) -> None:
    code = (2 * value if value >= 0 else -2 * value - 1) + 1
    bits = code.bit_length() - 1
    if bits:
        coder.encode_reverse(code - (1 << bits), _model.Uniform(1 << bits))
    coder.encode_reverse(bits, _model.Uniform(_ESCAPE_BITS))


def _pop_escaped(coder: AnsCoder) -> int:
    bits = coder.decode(_model.Uniform(_ESCAPE_BITS))
    code = (1 << bits) + (coder.decode(_model.Uniform(1 << bits)) if bits else 0) - 1
    value = -(code + 1) // 2 if code & 1 else code // 2
    if abs(value) > MAX_SYMBOL:
        raise BitstreamError("a latent lies outside the coded range; the file is damaged")
    return value


def _push(coder: AnsCoder, symbols: Symbols, first: int, frequencies: NDArray[np.float64]) -> None:
    """Pushes i.i.d. symbols; entry i of the table stands for `first + i`, the last entry for the escape."""
    escape = len(frequencies) - 1
    entries = symbols.astype(np.int64) - first
    outside = (entries < 0) | (entries >= escape)
    for value in symbols[outside][::-1].tolist():
        _push_escaped(coder, value)
    entries = np.where(outside, escape, entries).astype(np.int32)
    coder.encode_reverse(entries, _model.Categorical(frequencies, perfect=False))


def _pop(coder: AnsCoder, count: int, first: int, frequencies: NDArray[np.float64]) -> Symbols:
    escape = len(frequencies) - 1
    entries = coder.decode(_model.Categorical(frequencies, perfect=False), count)
    symbols = entries + np.int32(first)
    for index in np.flatnonzero(entries == escape):
        symbols[index] = _pop_escaped(coder)
    return symbols


class FactorizedTables:
    """The frequency tables of p(z): one per channel, as a checkpoint stores them.

    Args:
        first: symbol of each channel's first entry; int[channels].
        lengths: entries of each channel's table, escape included; int[channels].
        frequencies: all tables one after the other, each at least 1; int[sum(lengths)].
    """

    def __init__(
        self, first: NDArray[np.int32], lengths: NDArray[np.int32], frequencies: NDArray[np.int32]
    ) -> None:
        bounds = np.cumsum(lengths)[:-1]
        self._first = first.tolist()
        self._tables = np.split(frequencies.astype(np.float64), bounds)

    def push(self, coder: AnsCoder, symbols: Symbols) -> None:
        """Pushes z's symbols, int32[channels, ...]."""
        for plane, first, table in reversed(list(zip(symbols, self._first, self._tables, strict=True))):
            _push(coder, plane.reshape(-1), first, table)

    def pop(self, coder: AnsCoder, shape: tuple[int, int, int]) -> Symbols:
        """Pops z's symbols, int32[shape]."""
        count = shape[1] * shape[2]
        planes = [_pop(coder, count, f, t) for f, t in zip(self._first, self._tables, strict=True)]
        return np.stack(planes).reshape(shape)


_OFFSETS = 1 << SIGMA_BITS
_RUNS_PER_BLOCK = 1024


class _Runs:
    """Symbols under Gaussians, sorted into runs that share a table.

    Of mean-centred latents there are a few hundred distinct sigmas in an image, against a hundred thousand
    latents; with means between the integers there are nearly as many tables as latents, so they are built a
    block at a time. Coded in ascending order of sigma and of the mean's fraction; the whole part of the mean
    is taken off the symbols.
    """

    def __init__(self, sigma: NDArray[np.int32], mean: NDArray[np.int32] | None) -> None:
        self._shape = sigma.shape
        flat = sigma.reshape(-1).astype(np.int64) * _OFFSETS + _OFFSETS // 2
        self._whole = np.zeros(sigma.size, dtype=np.int32)
        if mean is not None:
            self._whole = mean.reshape(-1) + _OFFSETS // 2 >> SIGMA_BITS
            flat += mean.reshape(-1) - (self._whole << SIGMA_BITS)
        self._order = np.argsort(flat, kind="stable")
        distinct, counts = np.unique(flat, return_counts=True)
        self._ends = np.cumsum(counts).tolist()
        self._sigma, self._fraction = distinct // _OFFSETS, distinct % _OFFSETS - _OFFSETS // 2
        self._block: tuple[int, GaussianTables] | None = None

    def __len__(self) -> int:
        return len(self._ends)

    def slice(self, index: int) -> slice:
        """Where a run lies among the sorted symbols."""
        return slice(self._ends[index - 1] if index else 0, self._ends[index])

    def table(self, index: int) -> tuple[int, NDArray[np.float64]]:
        """A run's first symbol and its frequencies, the escape's last."""
        number, place = divmod(index, _RUNS_PER_BLOCK)
        if self._block is None or self._block[0] != number:
            block = slice(number * _RUNS_PER_BLOCK, (number + 1) * _RUNS_PER_BLOCK)
            self._block = number, gaussian_tables(self._sigma[block], self._fraction[block])
        tables = self._block[1]
        return -int(tables.reach[place]), tables.table(place)

    def sorted(self, symbols: Symbols) -> Symbols:
        return (symbols.reshape(-1) - self._whole)[self._order]

    def unsorted(self, ordered: Symbols) -> Symbols:
        symbols = np.empty_like(ordered)
        symbols[self._order] = ordered
        return (symbols + self._whole).reshape(self._shape)


def push_gaussian(
    coder: AnsCoder, symbols: Symbols, sigma: NDArray[np.int32], mean: NDArray[np.int32] | None = None
) -> None:
    """Pushes symbols, each under N(mean, sigma^2) on the integers.

    Args:
        symbols: int32, any shape; within +-MAX_SYMBOL.
        sigma: standard deviations in units of 2**-8, same shape; positive.
        mean: in the same units, same shape; zero by default.
    """
    runs = _Runs(sigma, mean)
    ordered = runs.sorted(symbols)
    for index in reversed(range(len(runs))):
        _push(coder, ordered[runs.slice(index)], *runs.table(index))


def pop_gaussian(coder: AnsCoder, sigma: NDArray[np.int32], mean: NDArray[np.int32] | None = None) -> Symbols:
    """Pops what `push_gaussian` pushed; int32 of sigma's shape."""
    runs = _Runs(sigma, mean)
    ordered = np.empty(sigma.size, dtype=np.int32)
    for index in range(len(runs)):
        run = runs.slice(index)
        ordered[run] = _pop(coder, run.stop - run.start, *runs.table(index))
    return runs.unsorted(ordered)


def draw_gaussian(coder: AnsCoder, sigma: NDArray[np.int32], mean: NDArray[np.int32]) -> Symbols:
    """Pops whatever bits are on the stack as a sample of the Gaussians; `return_gaussian` undoes it.

    Without an escape: it has several codes for one value, so a value drawn by it could not be returned as the
    same bits. No symbol lies further than six sigmas from its mean.
    """
    runs = _Runs(sigma, mean)
    ordered = np.empty(sigma.size, dtype=np.int32)
    for index in range(len(runs)):
        run, (first, frequencies) = runs.slice(index), runs.table(index)
        model = _model.Categorical(frequencies[:-1], perfect=False)
        ordered[run] = coder.decode(model, run.stop - run.start) + np.int32(first)
    return runs.unsorted(ordered)


def return_gaussian(
    coder: AnsCoder, symbols: Symbols, sigma: NDArray[np.int32], mean: NDArray[np.int32]
) -> None:
    """Pushes a sample that was drawn under the same sigma and mean: the bits are back.

    Raises:
        BitstreamError: a symbol could not have been drawn.
    """
    runs = _Runs(sigma, mean)
    ordered = runs.sorted(symbols)
    for index in reversed(range(len(runs))):
        first, frequencies = runs.table(index)
        entries = ordered[runs.slice(index)] - np.int32(first)
        if entries.min() < 0 or entries.max() >= len(frequencies) - 1:
            raise BitstreamError("a hyper-latent lies where its posterior never draws; the file is damaged")
        coder.encode_reverse(entries, _model.Categorical(frequencies[:-1], perfect=False))


def push_bytes(coder: AnsCoder, data: bytes) -> None:
    """Pushes bytes as they are, eight bits each."""
    coder.encode_reverse(np.frombuffer(data, dtype=np.uint8).astype(np.int32), _model.Uniform(256))


def pop_bytes(coder: AnsCoder, count: int) -> bytes:
    """Pops what `push_bytes` pushed."""
    return bytes(coder.decode(_model.Uniform(256), count).astype(np.uint8))
