"""A decoder of `.ncb` files in NumPy and onnxruntime, for a model that `ncbatch export-decoder` wrote.

    python ncb_decoder.py photo.ncb photo.png

    decoder = Decoder("decoder/")  # the folder of the exported model
    pixels = decoder.decode(Path("photo.ncb").read_bytes())  # uint8[height, width, 3]

It needs nothing but this file and that folder, and follows the specification of the format, which is
docs/formats/ncb.md of ncbatch, in its names. The latents are integers and the same on every machine. The
pixels are those of a synthesis in float32: two machines may differ by one level in a few samples. An
alpha plane is the matter of `ncb_alpha.py`, which the program below asks for it.
"""

from __future__ import annotations

import argparse
import functools
import json
import struct
import sys
import zlib
from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Pixels = NDArray[np.uint8]

MAX_PIXELS = 100_000_000
MAX_SIDE = 65_535

_PRECISION = 24  # bits of the ANS coder's models
_LARGEST = 2.0**23 - 1  # of the activations of h_s
_MAX_ESCAPED = 2**20
_TILE, _HALO = 56, 2  # latents per side that g_s computes at once, and those around them that matter


class DecodingError(Exception):
    """The bytes are no whole `.ncb` file of this model; the message says what is wrong."""


@dataclass(frozen=True)
class Latents:
    """What a file holds.

    Attributes:
        y_hat: the decoded latents in units of 1/256, int64[M, 4 ceil(height / 64), 4 ceil(width / 64)].
        width: of the image in pixels.
        height: likewise.
    """

    y_hat: Integers
    width: int
    height: int


class Decoder:
    """An exported model.

    Args:
        folder: that `ncbatch export-decoder` wrote.
        threads: for the synthesis; 0 leaves their number to onnxruntime.
    """

    def __init__(self, folder: str | Path, threads: int = 0) -> None:
        folder = Path(folder)
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        if manifest["format"] != 1:
            raise DecodingError(f"{folder} is of a newer format; take the ncb_decoder.py that came with it")
        self.digest: str = manifest["model"]["digest"]
        self._shifts: list[int] = manifest["model"]["shifts"]
        self._tensors = read_safetensors((folder / "decoder.safetensors").read_bytes())
        ends = np.cumsum(self._tensors["z.lengths"])[:-1]
        self._z_tables = np.split(self._tensors["z.frequencies"].astype(np.int64), ends)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._synthesis = onnxruntime.InferenceSession(
            str(folder / "synthesis.onnx"), options, providers=["CPUExecutionProvider"]
        )

    def decode(self, data: bytes, max_pixels: int = MAX_PIXELS) -> Pixels:
        """The image of a file, uint8[height, width, 3].

        Raises:
            DecodingError: not a whole `.ncb` file, of another model, or of more than `max_pixels` pixels.
        """
        latents = self.latents(data, max_pixels)
        return self.synthesise(latents.y_hat)[: latents.height, : latents.width]

    def latents(self, data: bytes, max_pixels: int = MAX_PIXELS) -> Latents:
        """The latents in a file; raises what `decode` does."""
        file = read_file(data, max_pixels)
        if file.model_digest != self.digest[:16]:
            raise DecodingError(f"the file is of the model {file.model_digest}, not of {self.digest[:16]}")
        stack = Stack(file.words)
        h, w = -(-file.height // 64), -(-file.width // 64)
        tables = zip(self._tensors["z.first"].tolist(), self._z_tables, strict=True)
        z = np.array([stack.pop_sequence(h * w, first, table) for first, table in tables])
        median = self._tensors["z.median"].astype(np.int64)
        mu, sigma = self.hyper_synthesis(256 * z.reshape(-1, h, w) + median[:, None, None])
        symbols = pop_gaussian(stack, coarse(sigma) if file.version >= 2 else sigma)
        if not stack.empty:
            raise DecodingError("the payload holds more than the image; the file is damaged")
        return Latents(256 * symbols + mu, file.width, file.height)

    def hyper_synthesis(self, z: Integers) -> tuple[Integers, Integers]:
        """The exact h_s: mu and sigma, [M, 4 h, 4 w] each, of z, [N, h, w]; all in units of 1/256.

        In float64: every sum of products of its integers lies below 2^53, so that any order of summation is
        exact.
        """
        x = np.clip(16.0 * z, -_LARGEST, _LARGEST)
        for index, shift in enumerate(self._shifts):
            if index:
                x = np.where(x < 0, np.floor(x * (655 / 65536)), x)
            weight = self._tensors[f"exact.{index}.weight"].astype(np.float64)
            out = convolution(x, weight) if index == 2 else transposed_convolution(x, weight)
            out += self._tensors[f"exact.{index}.bias"].astype(np.float64)[:, None, None]
            x = np.clip(np.floor(out * 2.0**-shift + 0.5), -_LARGEST, _LARGEST)
        sigma, mu = np.split(np.floor(x / 16 + 0.5).astype(np.int64), 2)
        return mu, np.clip(sigma, 28, 65535)

    def synthesise(self, y_hat: Integers) -> Pixels:
        """The image with its padding, uint8[16 h, 16 w, 3], of y_hat [M, h, w], tile by tile."""
        _, height, width = y_hat.shape
        pixels = np.empty((16 * height, 16 * width, 3), np.uint8)
        y = (y_hat.astype(np.float32) / 256)[None]
        for top in range(0, height, _TILE):
            for left in range(0, width, _TILE):
                above, before = min(top, _HALO), min(left, _HALO)
                crop = y[:, :, top - above : top + _TILE + _HALO, left - before : left + _TILE + _HALO]
                (image,) = self._synthesis.run(["image"], {"y_hat": crop})
                core = pixels[16 * top : 16 * (top + _TILE), 16 * left : 16 * (left + _TILE)]
                rows, columns = core.shape[:2]
                part = image[0, :, 16 * above : 16 * above + rows, 16 * before : 16 * before + columns]
                core[:] = np.clip(np.rint(part * np.float32(255)), 0, 255).transpose(1, 2, 0)
        return pixels


@dataclass(frozen=True)
class File:
    """A file's header and payload."""

    version: int
    model_digest: str
    width: int
    height: int
    words: list[int]


def read_file(data: bytes, max_pixels: int) -> File:
    """Takes a file apart. What follows the checksum in version 3 is none of the image, and passed over."""
    if data[:3] != b"NCB":
        pack = " but a pack of several images, which only ncbatch decodes" if data[:3] == b"NCP" else ""
        raise DecodingError(f"not an .ncb file{pack}")
    if data[3:4] not in (b"\1", b"\2", b"\3"):
        raise DecodingError("the .ncb file is of a version that this decoder does not know")
    width, position = leb128(data, 13)
    height, position = leb128(data, position)
    count, position = leb128(data, position)
    end = position + 4 * count
    if zlib.crc32(data[:end]).to_bytes(4, "little") != data[end : end + 4 if data[3] == 3 else None]:
        raise DecodingError("the checksum does not match: the file is cut short or damaged")
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE and width * height <= max_pixels):
        raise DecodingError(f"the image has {width} x {height} pixels, more than {max_pixels}")
    return File(data[3], data[5:13].hex(), width, height, np.frombuffer(data[position:end], "<u4").tolist())


def leb128(data: bytes, position: int) -> tuple[int, int]:
    """A number, and the position behind it."""
    value = 0
    for group, byte in enumerate(data[position : position + 5]):
        value |= (byte & 0x7F) << (7 * group)
        if byte < 0x80:
            return value, position + group + 1
    raise DecodingError("the header holds a number that does not end")


_TYPES = {"F16": "<f2", "F32": "<f4", "I16": "<i2", "I32": "<i4", "I64": "<i8"}


def read_safetensors(data: bytes) -> dict[str, NDArray[Any]]:
    """The tensors by their names."""
    start = 8 + struct.unpack_from("<Q", data)[0]
    header = json.loads(data[8:start])
    return {
        name: np.frombuffer(data[start + about["data_offsets"][0] : start + about["data_offsets"][1]],
                            _TYPES[about["dtype"]]).reshape(about["shape"])
        for name, about in header.items() if name != "__metadata__"
    }  # fmt: skip


# The entropy coder.


class Stack:
    """ANS: a state below 2^64, and the 32-bit words below it."""

    def __init__(self, words: list[int]) -> None:
        self._words = list(words)
        self._state = self._words.pop() if self._words else 0
        if words and self._state == 0:
            raise DecodingError("the payload is not an ANS stream; the file is damaged")
        if self._words:
            self._state = self._state << 32 | self._words.pop()

    @property
    def empty(self) -> bool:
        """Whether nothing is left."""
        return not self._words and self._state == 0

    def _pop(self, left: int, size: int) -> None:
        """Takes off the symbol whose interval begins at `left` and has `size` integers."""
        self._state = (self._state >> _PRECISION) * size + (self._state & (1 << _PRECISION) - 1) - left
        if self._state < 1 << 32 and self._words:
            self._state = self._state << 32 | self._words.pop()

    def pop_uniform(self, n: int) -> int:
        """One symbol of Uniform(n)."""
        size = (1 << _PRECISION) // n
        symbol = min((self._state & (1 << _PRECISION) - 1) // size, n - 1)
        self._pop(symbol * size, size if symbol < n - 1 else (1 << _PRECISION) - symbol * size)
        return symbol

    def pop_sequence(self, count: int, first: int, frequencies: Integers) -> list[int]:
        """So many symbols of one table, whose last entry is the escape."""
        n = len(frequencies)
        below = np.cumsum(frequencies) - frequencies
        scale = float((1 << _PRECISION) - n) / float(frequencies.sum())
        bounds = np.floor(scale * below.astype(np.float64)).astype(np.int64) + np.arange(n)
        left = [*bounds.tolist(), 1 << _PRECISION]
        symbols = []
        for _ in range(count):
            entry = bisect_right(left, self._state & (1 << _PRECISION) - 1) - 1
            self._pop(left[entry], left[entry + 1] - left[entry])
            symbols.append(first + entry)
        escape = first + n - 1
        return [self._pop_escaped() if symbol == escape else symbol for symbol in symbols]

    def _pop_escaped(self) -> int:
        k = self.pop_uniform(22)
        c = (1 << k) + (self.pop_uniform(1 << k) if k else 0) - 1
        value = -(c + 1) // 2 if c % 2 else c // 2
        if abs(value) > _MAX_ESCAPED:
            raise DecodingError("a latent lies outside the coded range; the file is damaged")
        return value


# The Gaussian tables.


@functools.cache
def distribution() -> Integers:
    """T: Phi(i / 1024) - 1/2 in units of 2^-30, int64[8193]."""
    one = 1 << 96

    def expm(x: int) -> int:
        total, power, k = one, one, 0
        while power:
            k += 1
            power = (power * x >> 96) // k
            total += -power if k % 2 else power
        return total

    ratio, step = expm(1 << 73), expm(1 << 74)
    d = [one]
    for _ in range(16384):
        d.append(d[-1] * ratio >> 96)
        ratio = ratio * step >> 96
    s = [0]
    for i in range(0, 16384, 2):
        s.append(s[-1] + d[i] + 4 * d[i + 1] + d[i + 2])
    return np.array([(value << 29) // s[-1] for value in s])


def gaussian_table(sigma: int) -> tuple[int, Integers]:
    """The reach r of a table, and its frequencies: of the symbols -r to r, and of the escape."""
    table, r = distribution(), (6 * sigma >> 8) + 2
    distance = 256 * np.arange(-r, r + 2) - 128
    t = np.minimum((np.abs(distance) << 22) // sigma, 8192 * 4096)
    i = np.minimum(t >> 12, 8191)
    v = np.sign(distance) * (table[i] + ((table[i + 1] - table[i]) * (t - 4096 * i) >> 12))
    return r, np.append(np.diff(v), (1 << 30) - (v[-1] - v[0])) + 1


def coarse(sigma: Integers) -> Integers:
    """Standard deviations, from 28 to 65535, rounded to seven significant bits."""
    t = np.maximum(np.frexp(sigma)[1] - 7, 0).astype(np.int64)
    return np.minimum((sigma + ((1 << t) >> 1)) >> t << t, 65024)


def pop_gaussian(stack: Stack, sigma: Integers) -> Integers:
    """The symbols of y, in the shape of sigma: for each sigma in ascending order, those that have it."""
    flat = sigma.reshape(-1)
    order = np.argsort(flat, kind="stable")
    values, starts = np.unique(flat[order], return_index=True)
    symbols = np.empty_like(flat)
    for value, (start, end) in zip(values.tolist(), pairwise([*starts.tolist(), flat.size]), strict=True):
        r, frequencies = gaussian_table(value)
        symbols[order[start:end]] = stack.pop_sequence(end - start, -r, frequencies)
    return symbols.reshape(sigma.shape)


def transposed_convolution(x: NDArray[np.float64], weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """5x5, stride 2: [inputs, h, w] and [inputs, outputs, 5, 5] to [outputs, 2 h, 2 w]."""
    inputs, h, w = x.shape
    outputs = weight.shape[1]
    wide = np.zeros((outputs, 2 * h + 3, 2 * w + 3))
    for u, v in np.ndindex(5, 5):
        tap = weight[:, :, u, v].T @ x.reshape(inputs, -1)
        wide[:, u : u + 2 * h : 2, v : v + 2 * w : 2] += tap.reshape(outputs, h, w)
    return wide[:, 2 : 2 * h + 2, 2 : 2 * w + 2]


def convolution(x: NDArray[np.float64], weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """3x3: [inputs, h, w] and [outputs, inputs, 3, 3] to [outputs, h, w]."""
    inputs, h, w = x.shape
    wide = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    out = np.zeros((len(weight), h * w))
    for u, v in np.ndindex(3, 3):
        out += weight[:, :, u, v] @ wide[:, u : u + h, v : v + w].reshape(inputs, -1)
    return out.reshape(-1, h, w)


def png(pixels: Pixels) -> bytes:
    """A PNG file of an image, RGB or RGBA."""
    height, width, channels = pixels.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if channels == 3 else 6, 0, 0, 0)
    file = b"\x89PNG\r\n\x1a\n"
    for kind, content in ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes())), (b"IEND", b"")):
        file += (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )
    return file


def main() -> int:
    """Decodes a file into a PNG; returns the exit code."""
    from ncb_alpha import with_alpha  # type: ignore[import-not-found]  # which lies beside this file

    parser = argparse.ArgumentParser(description="decodes an .ncb file into a PNG")
    parser.add_argument("source", type=Path, help="an .ncb file")
    parser.add_argument("destination", type=Path, help="the PNG to write")
    parser.add_argument("--model", type=Path, default=Path(__file__).parent, help="the exported folder")
    parser.add_argument("--max-pixels", type=int, default=MAX_PIXELS, help="refuse larger images")
    args = parser.parse_args()
    try:
        data = args.source.read_bytes()
        pixels = with_alpha(Decoder(args.model).decode(data, args.max_pixels), data)
        args.destination.write_bytes(png(pixels))
    except (DecodingError, OSError) as error:
        sys.exit(f"error: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
