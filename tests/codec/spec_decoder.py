"""A second decoder of `.ncb` files, written from `docs/formats/ncb.md` alone: it proves that page complete.

It imports nothing of ncbatch and no entropy coder. Plain Python and NumPy; slow, and meant to be read beside
the specification, whose names it uses.
"""

from __future__ import annotations

import functools
import hashlib
import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load

Integers = NDArray[np.int64]
Reals = NDArray[np.float64]


class DamagedError(Exception):
    """The bytes are not what the specification allows."""


def leb128(data: bytes, position: int) -> tuple[int, int]:
    """A number and the position after it."""
    value = 0
    for group in range(5):
        byte = data[position + group]
        value |= (byte & 0x7F) << (7 * group)
        if byte < 0x80:
            return value, position + group + 1
    raise DamagedError("a number that does not end")


class Checkpoint:
    """The tensors of a checkpoint by name, its metadata, and its digest, computed anew."""

    def __init__(self, data: bytes) -> None:
        (length,) = struct.unpack("<Q", data[:8])
        self.described: dict[str, Any] = json.loads(
            json.loads(data[8 : 8 + length])["__metadata__"]["ncbatch"]
        )
        self.tensors = load(data)
        names = ("format", "kind", "n", "m", "widths", "lmbda", "shifts")
        fields = {name: self.described[name] for name in names if name in self.described}
        digest = hashlib.sha256(json.dumps(fields, separators=(",", ":")).encode())
        for name, tensor in sorted(self.tensors.items()):
            digest.update(f"\n{name} {tensor.dtype.str} {tensor.shape}\n".encode() + tensor.tobytes())
        self.digest = digest.hexdigest()
        if self.described.get("digest", self.digest) != self.digest:
            raise DamagedError("the digest is another one")

    def integers(self, name: str) -> Integers:
        return self.tensors[name].astype(np.int64)

    def reals(self, name: str) -> Reals:
        return self.tensors[name].astype(np.float64)

    def tables(self, grid: str) -> list[tuple[int, list[int]]]:
        """First symbol and frequencies of each channel."""
        ends = np.cumsum(self.integers(f"{grid}.lengths"))[:-1]
        frequencies = np.split(self.integers(f"{grid}.frequencies"), ends)
        return [
            (first, table.tolist())
            for first, table in zip(self.integers(f"{grid}.first").tolist(), frequencies, strict=True)
        ]


# The entropy coder.


@dataclass(frozen=True)
class Uniform:
    n: int

    def interval(self, symbol: int) -> tuple[int, int]:
        width = 2**24 // self.n
        left = symbol * width
        return left, (2**24 - left if symbol == self.n - 1 else width)

    def symbol(self, q: int) -> int:
        return min(q // (2**24 // self.n), self.n - 1)


class Table:
    def __init__(self, frequencies: list[int]) -> None:
        n = len(frequencies)
        scale = float(2**24 - n) / float(sum(frequencies))
        below = np.concatenate([[0], np.cumsum(np.array(frequencies, dtype=np.int64))[:-1]])
        lefts = np.floor(scale * below.astype(np.float64)).astype(np.int64) + np.arange(n)
        self._bounds = np.append(lefts, 2**24)

    def interval(self, symbol: int) -> tuple[int, int]:
        left = int(self._bounds[symbol])
        return left, int(self._bounds[symbol + 1]) - left

    def symbol(self, q: int) -> int:
        return int(np.searchsorted(self._bounds, q, side="right")) - 1


class Stack:
    def __init__(self, payload: list[int]) -> None:
        self._words = list(payload)
        self._state = 0
        if self._words:
            self._state = self._words.pop()
            if self._state == 0:
                raise DamagedError("the last word is 0")
        if self._words:
            self._state = self._state * 2**32 + self._words.pop()

    def pop(self, model: Uniform | Table) -> int:
        q = self._state % 2**24
        symbol = model.symbol(q)
        left, width = model.interval(symbol)
        self._state = (self._state // 2**24) * width + (q - left)
        if self._state < 2**32 and self._words:
            self._state = self._state * 2**32 + self._words.pop()
        return symbol

    def push(self, model: Uniform | Table, symbol: int) -> None:
        left, width = model.interval(symbol)
        if self._state // 2**40 >= width:
            self._words.append(self._state % 2**32)
            self._state //= 2**32
        self._state = (self._state // width) * 2**24 + left + self._state % width

    @property
    def empty(self) -> bool:
        return not self._words and self._state == 0

    def pop_sequence(self, count: int, first: int, frequencies: list[int]) -> list[int]:
        """Symbols of one table whose last entry is the escape."""
        table, escape = Table(frequencies), len(frequencies) - 1
        entries = [self.pop(table) for _ in range(count)]
        return [self._escaped() if entry == escape else first + entry for entry in entries]

    def _escaped(self) -> int:
        k = self.pop(Uniform(22))
        c = 2**k + (self.pop(Uniform(2**k)) if k else 0) - 1
        value = -(c + 1) // 2 if c % 2 else c // 2
        if abs(value) > 2**20:
            raise DamagedError("a value out of range")
        return value


# The Gaussian tables.


@functools.cache
def distribution() -> list[int]:
    """T."""
    one = 2**96

    def expm(x: int) -> int:
        total = power = one
        k = 0
        while power:
            k += 1
            power = ((power * x) >> 96) // k
            total += -power if k % 2 else power
        return total

    ratio, step = expm(2**74 // 2), expm(2**74)
    d = [one]
    for _ in range(16384):
        d.append((d[-1] * ratio) >> 96)
        ratio = (ratio * step) >> 96
    s = [0]
    for i in range(8192):
        s.append(s[-1] + d[2 * i] + 4 * d[2 * i + 1] + d[2 * i + 2])
    return [(value * 2**29) // s[-1] for value in s]


@functools.cache
def gaussian_table(sigma: int, offset: int) -> tuple[int, list[int]]:
    """r and the frequencies, the escape's last."""
    table = distribution()

    def below(distance: int) -> int:
        t = min((abs(distance) * 2**22) // sigma, 8192 * 4096)
        i = min(t >> 12, 8191)
        v = table[i] + (((table[i + 1] - table[i]) * (t - 4096 * i)) >> 12)
        return -v if distance < 0 else v

    r = ((6 * sigma) >> 8) + 2
    bounds = [below(256 * k - 128 - offset) for k in range(-r, r + 2)]
    frequencies = [right - left + 1 for left, right in pairwise(bounds)]
    return r, [*frequencies, 2**30 - (bounds[-1] - bounds[0]) + 1]


def coarse(sigma: Integers) -> Integers:
    bits = np.array([int(value).bit_length() for value in sigma.reshape(-1)]).reshape(sigma.shape)
    t = np.maximum(bits - 7, 0)
    return np.minimum((sigma + 2**t // 2) >> t << t, 65024)


# The transforms, in any arithmetic.


def transposed(x: Any, weight: Any, bias: Any) -> Any:
    """A transposed convolution, 5x5, stride 2."""
    inputs, height, width = x.shape
    outputs = weight.shape[1]
    padded = np.zeros((outputs, 2 * height + 3, 2 * width + 3), x.dtype)
    for u in range(5):
        for v in range(5):
            tap = (weight[:, :, u, v].T @ x.reshape(inputs, -1)).reshape(outputs, height, width)
            padded[:, u : u + 2 * height : 2, v : v + 2 * width : 2] += tap
    return padded[:, 2 : 2 * height + 2, 2 : 2 * width + 2] + bias[:, None, None]


def convolution(x: Any, weight: Any, bias: Any, stride: int) -> Any:
    border = weight.shape[2] // 2
    inputs, height, width = x.shape
    rows, columns = height // stride, width // stride
    padded = np.pad(x, ((0, 0), (border, border), (border, border)))
    out = np.zeros((len(bias), rows, columns), x.dtype) + bias[:, None, None]
    for u in range(weight.shape[2]):
        for v in range(weight.shape[3]):
            part = padded[:, u : u + height : stride, v : v + width : stride]
            out += (weight[:, :, u, v] @ part.reshape(inputs, -1)).reshape(out.shape)
    return out


def hyper_synthesis(model: Checkpoint, z: Integers) -> tuple[Integers, Integers]:
    """mu and sigma in units of 1/256, [M, 4 h, 4 w] each; z [N, h, w] in the same units."""
    largest = 2**23 - 1
    x = np.clip(16 * z, -largest, largest)
    for layer, shift in enumerate(model.described["shifts"]):
        if layer:
            x = np.where(x < 0, 655 * x // 65536, x)
        weight, bias = model.integers(f"exact.{layer}.weight"), model.integers(f"exact.{layer}.bias")
        out = convolution(x, weight, bias, 1) if layer == 2 else transposed(x, weight, bias)
        x = np.clip((2 * out + 2**shift) // 2 ** (shift + 1), -largest, largest)
    x = (x + 8) // 16
    sigma, mu = np.split(x, 2)
    return mu, np.clip(sigma, 28, 65535)


def synthesis(model: Checkpoint, y_hat: Reals, height: int, width: int) -> NDArray[np.uint8]:
    x = y_hat
    for layer in range(7):
        if layer % 2 == 0:
            x = transposed(x, model.reals(f"g_s.{layer}.weight"), model.reals(f"g_s.{layer}.bias"))
            continue
        beta = np.maximum(model.reals(f"g_s.{layer}.beta"), (1e-6 + 2**-36) ** 0.5) ** 2 - 2**-36
        gamma = np.maximum(model.reals(f"g_s.{layer}.gamma"), 2**-18) ** 2 - 2**-36
        norm = (gamma @ (x * x).reshape(len(x), -1)).reshape(x.shape) + beta[:, None, None]
        x = x * np.sqrt(norm)
    samples = np.clip(np.rint(255 * x), 0, 255).astype(np.uint8)
    return samples.transpose(1, 2, 0)[:height, :width]


# Symbols of z and of y.


def pop_z(stack: Stack, model: Checkpoint, grid: str, height: int, width: int) -> Integers:
    h, w = -(-height // 64), -(-width // 64)
    channels = [stack.pop_sequence(h * w, *table) for table in model.tables(grid)]
    return np.array(channels, dtype=np.int64).reshape(-1, h, w)


def sequences(sigma: Integers, offset: Integers) -> Iterator[tuple[int, int, Integers]]:
    """sigma, offset and the positions of the elements of each sequence."""
    order = np.lexsort((np.arange(sigma.size), offset.reshape(-1), sigma.reshape(-1)))
    keys = np.stack([sigma.reshape(-1)[order], offset.reshape(-1)[order]], 1)
    starts = [0, *(np.flatnonzero((keys[1:] != keys[:-1]).any(1)) + 1).tolist(), sigma.size]
    for start, end in pairwise(starts):
        yield int(keys[start, 0]), int(keys[start, 1]), order[start:end]


def pop_gaussian(stack: Stack, sigma: Integers, offset: Integers) -> Integers:
    symbols = np.empty(sigma.size, dtype=np.int64)
    for deviation, shift, positions in sequences(sigma, offset):
        r, frequencies = gaussian_table(deviation, shift)
        symbols[positions] = stack.pop_sequence(len(positions), -r, frequencies)
    return symbols.reshape(sigma.shape)


# The file.


@dataclass(frozen=True)
class Decoded:
    """An image: y_hat as the golden files' index counts it (in an `.ncb` file, in units of 1/256).

    carried: the items of the tail, by kind.
    """

    y_hat: Integers
    image: NDArray[np.uint8]
    carried: dict[int, bytes] = field(default_factory=dict)


def check_crc(content: bytes, checksum: bytes) -> None:
    if zlib.crc32(content).to_bytes(4, "little") != checksum:
        raise DamagedError("the checksum does not match")


def words_of(data: bytes) -> list[int]:
    return [int(word) for word in np.frombuffer(data, "<u4")]


def decode_ncb(model: Checkpoint, data: bytes) -> Decoded:
    if data[:3] != b"NCB" or data[3] not in (1, 2, 3):
        raise DamagedError("not an .ncb file of version 1, 2 or 3")
    if data[5:13].hex() != model.digest[:16]:
        raise DamagedError("another model")
    width, position = leb128(data, 13)
    height, position = leb128(data, position)
    count, position = leb128(data, position)
    end = position + 4 * count
    check_crc(data[:end], data[end : end + 4])
    if data[3] != 3 and end + 4 != len(data):
        raise DamagedError("the length of the payload")
    carried = tail_items(data[end + 4 :]) if data[3] == 3 else {}
    stack = Stack(words_of(data[position:end]))
    z = pop_z(stack, model, "z", height, width)
    mu, sigma = hyper_synthesis(model, 256 * z + model.integers("z.median")[:, None, None])
    if data[3] >= 2:
        sigma = coarse(sigma)
    y_hat = 256 * pop_gaussian(stack, sigma, np.zeros_like(sigma)) + mu
    if not stack.empty:
        raise DamagedError("the payload holds more than the image")
    return Decoded(y_hat, synthesis(model, y_hat / 256, height, width), carried)


def tail_items(tail: bytes) -> dict[int, bytes]:
    """What a tail holds, by kind."""
    check_crc(tail[:-4], tail[-4:])
    found: dict[int, bytes] = {}
    position = 0
    while position < len(tail) - 4:
        kind = tail[position]
        length, start = leb128(tail, position + 1)
        position = start + length
        if position > len(tail) - 4 or kind & 0x7F in found:
            raise DamagedError("an item of the tail")
        content = tail[start:position]
        found[kind & 0x7F] = zlib.decompress(content, wbits=-15) if kind & 0x80 else content
    return found
