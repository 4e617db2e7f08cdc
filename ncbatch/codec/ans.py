"""ANS coding of the integer symbols of z and y with integer frequency tables.

The coder is a stack: what is pushed last is popped first. Every `push_*` leaves the stack so that the
matching `pop_*` returns the same symbols. Symbols outside a table are coded as an escape, followed by their
value in an Elias-gamma code.
"""

from itertools import pairwise
from typing import Any, NamedTuple

import constriction
import numpy as np
from numpy.typing import NDArray

from ncbatch.codec.errors import BitstreamError
from ncbatch.codec.gaussian_tables import SIGMA_BITS, gaussian_tables

# constriction is one binary module: its submodules are attributes, not importable by name.
_model = constriction.stream.model
AnsCoder = Any
"""constriction's `AnsCoder`, which comes without type information."""

MAX_SYMBOL = 2**20
"""Symbols of y lie within +-MAX_SYMBOL; refinement never gets near it, a hostile file might ask for more."""

_ESCAPE_BITS = 22  # 2 * MAX_SYMBOL + 1, zigzagged and plus one, fits

Symbols = NDArray[np.int32]


def new_coder(payload: bytes = b"") -> AnsCoder:
    """An ANS stack.

    Args:
        payload: what it holds, as little-endian 32-bit words; empty by default.

    Raises:
        BitstreamError: the words are no ANS stream.
    """
    if not payload:
        return constriction.stream.stack.AnsCoder()
    try:
        return constriction.stream.stack.AnsCoder(np.frombuffer(payload, dtype="<u4").astype(np.uint32))
    except ValueError as error:
        raise BitstreamError(f"the payload is not an ANS stream ({error}); the file is damaged") from error


def payload_of(coder: AnsCoder) -> bytes:
    """The words of a stack as little-endian bytes; `new_coder` of them is the same stack."""
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
_TABLES_AT_ONCE = 1024
_MOST_TABLES = 1 << 15
"""In the cache; of packs of old versions, where nearly every latent has a table of its own, some 10 MB."""


class _Table(NamedTuple):
    """What the coder needs of one Gaussian. escape: the entry that stands for it, the last one."""

    first: int
    escape: int
    model: Any


_tables: dict[tuple[int, bool], _Table] = {}
"""By the Gaussian's key (see `_Runs`) and whether it has an escape; for as long as the process lives, since
an image needs the tables of the one before."""


def _tables_of(keys: NDArray[np.int64], *, escape: bool) -> list[_Table]:
    """Tables by their keys; those that are not there yet are built in one go.

    Another thread may clear the cache meanwhile, so what is returned is not taken from there a second time.
    """
    wanted = keys.tolist()
    found = {key: table for key in wanted if (table := _tables.get((key, escape))) is not None}
    missing = [key for key in wanted if key not in found]
    if len(_tables) + len(missing) > _MOST_TABLES:
        _tables.clear()
    for start in range(0, len(missing), _TABLES_AT_ONCE):
        block = np.array(missing[start : start + _TABLES_AT_ONCE], dtype=np.int64)
        built = gaussian_tables(block // _OFFSETS, block % _OFFSETS - _OFFSETS // 2)
        for index, (key, reach) in enumerate(zip(block.tolist(), built.reach.tolist(), strict=True)):
            frequencies = built.table(index)
            model = _model.Categorical(frequencies if escape else frequencies[:-1], perfect=False)
            found[key] = _tables[key, escape] = _Table(-reach, 2 * reach + 1, model)
    return [found[key] for key in wanted]


def _stable_order(keys: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Indices that sort numbers below 2**32.

    numpy sorts 16 bits by radix, several times as fast as more of them.
    """
    order = np.argsort(keys.astype(np.uint16), kind="stable")
    return order[np.argsort((keys >> 16).astype(np.uint16)[order], kind="stable")]


class _Runs:
    """Symbols under Gaussians, sorted into runs that share a frequency table.

    The mean-centred latents of an image have a few hundred distinct coarse sigmas, against a hundred thousand
    latents, and thousands that are not coarse. Where means lie between the integers there are some thousand
    tables, and nearly as many as latents without coarseness. Runs come in ascending order of sigma and of the
    mean's fractional part; the whole part of the mean is subtracted from the symbols.

    A Gaussian's key is sigma * 2**8 + the mean's fractional part + 2**7.
    """

    def __init__(
        self, sigma: NDArray[np.int32], mean: NDArray[np.int32] | None, *, escape: bool = True
    ) -> None:
        self._shape = sigma.shape
        self._whole: NDArray[np.int32] | None = None
        keys: NDArray[Any]
        if mean is None:
            keys = sigma.reshape(-1).astype(np.uint16)
            self._order = np.argsort(keys, kind="stable")
        else:
            self._whole = mean.reshape(-1) + _OFFSETS // 2 >> SIGMA_BITS
            fraction = mean.reshape(-1) - (self._whole << SIGMA_BITS)
            both = sigma.reshape(-1).astype(np.int32) * _OFFSETS + fraction + _OFFSETS // 2
            keys = both.astype(np.uint32, copy=False)
            self._order = _stable_order(keys)
        keys = keys[self._order]
        starts = np.flatnonzero(np.concatenate([np.ones(min(len(keys), 1), bool), keys[1:] != keys[:-1]]))
        distinct = keys[starts].astype(np.int64)
        if mean is None:
            distinct = distinct * _OFFSETS + _OFFSETS // 2
        self._counts = np.diff(starts, append=len(keys))
        self.slices = [slice(start, end) for start, end in pairwise([*starts.tolist(), len(keys)])]
        self.tables = _tables_of(distinct, escape=escape)

    def entries(self, symbols: Symbols) -> tuple[Symbols, Symbols]:
        """Entries of the runs' tables for symbols, sorted into runs, and the number of each one's escape."""
        ordered = symbols.reshape(-1)
        if self._whole is not None:
            ordered = ordered - self._whole
        escape = np.array([table.escape for table in self.tables], dtype=np.int32)
        return ordered[self._order] - self._firsts, np.repeat(escape, self._counts)

    @property
    def _firsts(self) -> Symbols:
        """The first symbol of each sorted element's table."""
        first = np.array([table.first for table in self.tables], dtype=np.int32)
        return np.repeat(first, self._counts)

    def symbols(self, entries: Symbols) -> Symbols:
        """The symbols that sorted entries stand for, in the shape of sigma."""
        symbols = np.empty_like(entries)
        symbols[self._order] = entries + self._firsts
        return (symbols if self._whole is None else symbols + self._whole).reshape(self._shape)


def push_gaussian(
    coder: AnsCoder, symbols: Symbols, sigma: NDArray[np.int32], mean: NDArray[np.int32] | None = None
) -> None:
    """Pushes symbols, each under N(mean, sigma^2) on the integers.

    Args:
        symbols: int32, any shape; within +-MAX_SYMBOL.
        sigma: standard deviations in units of 2**-8, same shape; positive and below 2**16.
        mean: in the same units, same shape; zero by default.
    """
    runs = _Runs(sigma, mean)
    entries, escapes = runs.entries(symbols)
    outside = entries.view(np.uint32) >= escapes.view(np.uint32)  # negative ones are large then
    escaped = set(
        np.searchsorted([run.stop for run in runs.slices], np.flatnonzero(outside), "right").tolist()
    )
    coded = np.where(outside, escapes, entries)
    for index in reversed(range(len(runs.slices))):
        run, table = runs.slices[index], runs.tables[index]
        if index in escaped:
            for value in (entries[run][outside[run]] + np.int32(table.first))[::-1].tolist():
                _push_escaped(coder, value)
        coder.encode_reverse(coded[run], table.model)


def pop_gaussian(coder: AnsCoder, sigma: NDArray[np.int32], mean: NDArray[np.int32] | None = None) -> Symbols:
    """Pops what `push_gaussian` pushed; int32 of sigma's shape."""
    runs = _Runs(sigma, mean)
    entries = np.empty(sigma.size, dtype=np.int32)
    for run, table in zip(runs.slices, runs.tables, strict=True):
        popped = coder.decode(table.model, run.stop - run.start)
        entries[run] = popped
        if popped.max() == table.escape:
            for place in np.flatnonzero(popped == table.escape).tolist():
                entries[run.start + place] = _pop_escaped(coder) - table.first
    return runs.symbols(entries)


def draw_gaussian(coder: AnsCoder, sigma: NDArray[np.int32], mean: NDArray[np.int32]) -> Symbols:
    """Pops bits, whatever they are, as a sample of the Gaussians; `return_gaussian` undoes it.

    No sample is coded by the escape, which has several codes for one value, so that a value drawn by it could
    not be returned as the same bits. Every sample therefore lies within six sigmas of its mean.

    Args:
        sigma: standard deviations in units of 2**-8; int32, any shape.
        mean: in the same units, same shape.

    Returns:
        int32 of the same shape.
    """
    runs = _Runs(sigma, mean, escape=False)
    entries = np.empty(sigma.size, dtype=np.int32)
    for run, table in zip(runs.slices, runs.tables, strict=True):
        entries[run] = coder.decode(table.model, run.stop - run.start)
    return runs.symbols(entries)


def return_gaussian(
    coder: AnsCoder, symbols: Symbols, sigma: NDArray[np.int32], mean: NDArray[np.int32]
) -> None:
    """Pushes a sample that was drawn under the same sigma and mean: the bits are back.

    Raises:
        BitstreamError: a symbol could not have been drawn.
    """
    runs = _Runs(sigma, mean, escape=False)
    entries, escapes = runs.entries(symbols)
    if bool(((entries < 0) | (entries >= escapes)).any()):
        raise BitstreamError("a hyper-latent lies where its posterior never draws; the file is damaged")
    for run, table in zip(reversed(runs.slices), reversed(runs.tables), strict=True):
        coder.encode_reverse(entries[run], table.model)


def push_bytes(coder: AnsCoder, data: bytes) -> None:
    """Pushes bytes as they are, eight bits each."""
    coder.encode_reverse(np.frombuffer(data, dtype=np.uint8).astype(np.int32), _model.Uniform(256))


def pop_bytes(coder: AnsCoder, count: int) -> bytes:
    """Pops what `push_bytes` pushed."""
    return bytes(coder.decode(_model.Uniform(256), count).astype(np.uint8))
