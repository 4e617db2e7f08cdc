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
from ncbatch.codec.gaussian import SIGMA_BITS, GaussianTables, gaussian_tables

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


def _runs(
    sigma: NDArray[np.int32], offset: NDArray[np.int32] | None
) -> tuple[NDArray[np.int64], list[slice], GaussianTables]:
    """Order that sorts by sigma and offset, where each distinct pair's run lies in it, and their tables."""
    flat = sigma.reshape(-1).astype(np.int64) * _OFFSETS + _OFFSETS // 2
    if offset is not None:
        flat += offset.reshape(-1)
    order = np.argsort(flat, kind="stable")
    distinct, counts = np.unique(flat, return_counts=True)
    ends = np.cumsum(counts)
    runs = [slice(int(e - c), int(e)) for e, c in zip(ends, counts, strict=True)]
    return order, runs, gaussian_tables(distinct // _OFFSETS, distinct % _OFFSETS - _OFFSETS // 2)


def push_gaussian(
    coder: AnsCoder, symbols: Symbols, sigma: NDArray[np.int32], offset: NDArray[np.int32] | None = None
) -> None:
    """Pushes symbols, each under N(offset, sigma^2) on the integers.

    Symbols of the same fixed-point sigma and offset share one table and are coded as one run, in ascending
    order: of mean-centred latents there are a few hundred distinct sigmas in a picture, against a hundred
    thousand latents.

    Args:
        symbols: int32, any shape; within +-MAX_SYMBOL.
        sigma: standard deviations in units of 2**-8, same shape; positive.
        offset: means in the same units, from -128 to 127, same shape; zero by default.
    """
    order, runs, tables = _runs(sigma, offset)
    ordered = symbols.reshape(-1)[order]
    for index in reversed(range(len(runs))):
        _push(coder, ordered[runs[index]], -int(tables.reach[index]), tables.table(index))


def pop_gaussian(
    coder: AnsCoder, sigma: NDArray[np.int32], offset: NDArray[np.int32] | None = None
) -> Symbols:
    """Pops what `push_gaussian` pushed; int32 of sigma's shape."""
    order, runs, tables = _runs(sigma, offset)
    symbols = np.empty(sigma.size, dtype=np.int32)
    for index, run in enumerate(runs):
        reach = int(tables.reach[index])
        symbols[order[run]] = _pop(coder, run.stop - run.start, -reach, tables.table(index))
    return symbols.reshape(sigma.shape)
