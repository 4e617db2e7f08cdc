"""A second decoder of packs, written from `docs/formats/ncbp.md` alone: it proves that page complete.

It builds on `spec_decoder` as that page builds on the one about `.ncb` files.
"""

from __future__ import annotations

import hashlib
import math
import struct
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import erfc, erfinv

from tests.codec.spec_decoder import (
    Checkpoint,
    DamagedError,
    Decoded,
    Integers,
    Reals,
    Stack,
    Table,
    Uniform,
    check_crc,
    coarse,
    convolution,
    gaussian_table,
    hyper_synthesis,
    leb128,
    pop_gaussian,
    pop_z,
    sequences,
    synthesis,
    transposed,
    words_of,
)


@dataclass(frozen=True)
class Section:
    width: int
    height: int
    latents: int
    posterior: int | None
    corrections: list[tuple[int, int]]
    words: list[int]


def read_section(content: bytes, in_front: Section | None) -> Section:
    flags, position = content[0], 1
    if flags & 4:
        assert in_front is not None
        width, height = in_front.width, in_front.height
    else:
        width, position = leb128(content, position)
        height, position = leb128(content, position)
    latents = int.from_bytes(content[position : position + 2], "little")
    position += 2
    posterior: int | None = None
    if flags & 1:
        posterior = int.from_bytes(content[position : position + 4], "little")
        position += 4
    corrections = []
    if flags & 2:
        count, position = leb128(content, position)
        index = 0
        for _ in range(count):
            coded, position = leb128(content, position)
            index += coded // 2
            corrections.append((index, coded % 2))
    return Section(width, height, latents, posterior, corrections, words_of(content[position:]))


@dataclass(frozen=True)
class Pack:
    version: int
    rate: float
    steps: int
    side_bytes: int
    names: list[bytes] | None
    sections: list[Section]
    side_words: list[int]


def read_pack(model: Checkpoint, data: bytes) -> Pack:
    version = data[3]
    if data[:3] != b"NCP" or version not in (2, 3, 4, 5):
        raise DamagedError("not an .ncbp file of versions 2 to 5")
    if data[4:12].hex() != model.digest[:16]:
        raise DamagedError("another model")
    steps, position = leb128(data, 20)
    images, position = leb128(data, position)
    side_bytes, position = leb128(data, position)
    names_bytes = 0
    if version in (3, 5):
        names_bytes, position = leb128(data, position)
    check_crc(data[:position], data[position : position + 4])
    position += 4
    names = None
    if names_bytes:
        check_crc(data[position : position + names_bytes], data[position + names_bytes :][:4])
        names = zlib.decompress(data[position : position + names_bytes]).split(b"\0")
        position += names_bytes + 4
    sections: list[Section] = []
    for _ in range(images):
        length, start = leb128(data, position)
        end = start + length
        check_crc(data[position:end], data[end : end + 4])
        sections.append(read_section(data[start:end], sections[-1] if sections else None))
        position = end + 4
    side_words: list[int] = []
    if side_bytes:
        check_crc(data[position:-4], data[-4:])
        side_words, position = words_of(data[position:-4]), len(data)
    if position != len(data):
        raise DamagedError("bytes follow the last image")
    (rate,) = struct.unpack("<d", data[12:20])
    return Pack(version, rate, steps, side_bytes, names, sections, side_words)


SIGMAS = [
    204, 231, 262, 297, 336, 381, 432, 489, 554, 628, 712, 807, 914, 1036, 1174, 1330, 1507, 1707, 1935, 2192,
    2484, 2815, 3190, 3615, 4096, 4641, 5259, 5960, 6753, 7652, 8671, 9826, 11134, 12617, 14296, 16200, 18357,
    20801, 23571, 26709, 30266, 34295, 38862, 44036, 49899, 56544, 64072, 72603, 82270,
]  # fmt: skip


def hyper_analysis(model: Checkpoint, y_hat: Integers) -> Reals:
    x = y_hat.astype(np.float64)
    for layer, stride in ((0, 1), (2, 2), (4, 2)):
        if layer:
            x = np.where(x < 0, 0.01 * x, x)
        x = convolution(x, model.reals(f"h_a.{layer}.weight"), model.reals(f"h_a.{layer}.bias"), stride)
    return x


def noise_of(step: int, shape: tuple[int, ...]) -> Reals:
    key = hashlib.blake2b(b"bbvi", key=b"0", digest_size=16).digest()
    halves = hashlib.blake2b(f"z {step}".encode(), key=key, digest_size=8).digest()
    a, b = (np.uint32(half) for half in struct.unpack("<II", halves))

    def mix(x: NDArray[np.uint32]) -> NDArray[np.uint32]:
        x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
        x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
        return x ^ (x >> np.uint32(16))

    index = np.arange(math.prod(shape), dtype=np.uint32)
    bits = mix(mix(index ^ a) + b) >> np.uint32(8)
    u = np.minimum((bits.astype(np.float32) + np.float32(0.5)) * np.float32(2**-24), np.float32(1 - 2**-24))
    normal: Reals = math.sqrt(2) * erfinv(2 * u.astype(np.float64) - 1)
    return normal.reshape(shape)


def bits_y_gradient(model: Checkpoint, y_hat: Integers, z: Reals) -> Reals:
    """The derivative of the bits of y_hat by z."""
    weights, biases = [], []
    for layer, shift in enumerate(model.described["shifts"]):
        weight, bias = model.reals(f"exact.{layer}.weight"), model.reals(f"exact.{layer}.bias")
        weights.append((weight / 2**shift).astype(np.float32).astype(np.float64))
        biases.append((bias / 2 ** (shift + 12)).astype(np.float32).astype(np.float64))
    first = transposed(z, weights[0], biases[0])
    second = transposed(np.where(first < 0, 0.01 * first, first), weights[1], biases[1])
    out = convolution(np.where(second < 0, 0.01 * second, second), weights[2], biases[2], 1)
    raw, mu = np.split(out, 2)
    sigma, v = np.maximum(raw, 0.11), y_hat - mu
    upper, lower = (0.5 - abs(v)) / sigma, (-0.5 - abs(v)) / sigma
    mass = np.maximum((erfc(-upper / math.sqrt(2)) - erfc(-lower / math.sqrt(2))) / 2, 1e-9)
    at_upper, at_lower = (np.exp(-t * t / 2) / math.sqrt(2 * math.pi) for t in (upper, lower))
    by_mu = -np.sign(v) * (at_upper - at_lower) / (sigma * mass * math.log(2))
    by_sigma = (at_upper * upper - at_lower * lower) / (sigma * mass * math.log(2))
    by_raw = np.where((raw >= 0.11) | (by_sigma < 0), by_sigma, 0.0)
    gradient = np.concatenate([by_raw, by_mu])
    flipped = weights[2].transpose(1, 0, 2, 3)[:, :, ::-1, ::-1]
    gradient = convolution(gradient, flipped, np.zeros(flipped.shape[0]), 1) * np.where(second < 0, 0.01, 1.0)
    gradient = convolution(gradient, weights[1], np.zeros(len(weights[1])), 2) * np.where(
        first < 0, 0.01, 1.0
    )
    by_z: Reals = convolution(gradient, weights[0], np.zeros(len(weights[0])), 2)
    return by_z


def log_density_gradient(model: Checkpoint, z: Reals) -> Reals:
    """The derivative of log p(z) by z."""
    f = z.reshape(len(z), 1, -1)
    slope, curvature = np.ones_like(f), np.zeros_like(f)
    for layer in range(5):
        a = np.log1p(np.exp(model.reals(f"prior.matrices.{layer}")))
        f, slope, curvature = a @ f + model.reals(f"prior.biases.{layer}"), a @ slope, a @ curvature
        if layer < 4:
            c, t = np.tanh(model.reals(f"prior.factors.{layer}")), np.tanh(f)
            bend = 1 + c * (1 - t * t)
            curvature = curvature * bend - 2 * c * t * (1 - t * t) * slope**2
            f, slope = f + c * t, slope * bend
    by_z: Reals = -np.tanh(f / 2) * slope + np.where(slope >= 1e-12, curvature / slope, 0.0)
    return by_z.reshape(z.shape)


def inferred(model: Checkpoint, y_hat: Integers, pack: Pack) -> Reals:
    """Means and log-variances, [2 N, h, w]."""
    parameters = hyper_analysis(model, y_hat)
    first, second = np.zeros_like(parameters), np.zeros_like(parameters)
    for step in range(pack.steps):
        mean, log_variance = np.split(parameters, 2)
        noise = noise_of(step, mean.shape)
        deviation = np.exp(log_variance / 2)
        z = mean + deviation * noise
        by_z = bits_y_gradient(model, y_hat, z) - log_density_gradient(model, z) / math.log(2)
        by_log_variance = by_z * deviation * noise / 2 - 1 / (2 * math.log(2))
        gradient = np.concatenate([by_z, by_log_variance])
        first = 0.9 * first + (1 - 0.9) * gradient
        second = 0.999 * second + (1 - 0.999) * gradient**2
        corrected = second / (1 - 0.999 ** (step + 1))
        parameters = parameters - pack.rate * first / (1 - 0.9 ** (step + 1)) / (np.sqrt(corrected) + 1e-8)
    return parameters


def snapped_posterior(parameters: Reals, section: Section) -> tuple[Integers, Integers]:
    """Mean and sigma in units of the coder, [N, h, w] each."""
    mean, log_variance = np.split(parameters, 2)
    steps = np.concatenate(
        [(np.clip(mean, -1000, 1000) * 64).reshape(-1), np.clip(log_variance * 4, -24, 24).reshape(-1)]
    )
    nearest = np.rint(steps).astype(np.int64)
    for index, bit in section.corrections:
        if nearest[index] % 2 != bit:
            nearest[index] += 1 if steps[index] > nearest[index] else -1
    if zlib.crc32(nearest.astype("<i4").tobytes()) != section.posterior:
        raise DamagedError("another posterior")
    means, log_variances = (part.reshape(mean.shape) for part in np.split(nearest, 2))
    return 64 * means, np.array(SIGMAS)[log_variances + 24]


def split_mean(mean: Integers) -> tuple[Integers, Integers]:
    whole = (mean + 128) >> 8
    return whole, mean - 256 * whole


def coarse_parameters(mu: Integers, sigma: Integers) -> tuple[Integers, Integers]:
    sigma = coarse(sigma)
    bits = np.array([int(value).bit_length() for value in sigma.reshape(-1)]).reshape(sigma.shape)
    t = np.maximum(bits - 5, 0)
    return (mu + 2**t // 2) >> t << t, sigma


def give_back(stack: Stack, z: Integers, mean: Integers, sigma: Integers) -> None:
    whole, offset = split_mean(mean)
    symbols = (z - whole).reshape(-1)
    for deviation, shift, positions in reversed(list(sequences(sigma, offset))):
        r, frequencies = gaussian_table(deviation, shift)
        table = Table(frequencies[:-1])
        for symbol in reversed(symbols[positions].tolist()):
            if not -r <= symbol <= r:
                raise DamagedError("z lies where its posterior never draws")
            stack.push(table, symbol + r)


def decode_ncbp(model: Checkpoint, data: bytes) -> tuple[list[Decoded], bytes]:
    """The images in the order of packing, and the side information."""
    pack = read_pack(model, data)
    top_first = [word for section in pack.sections for word in section.words] + pack.side_words
    stack = Stack(top_first[::-1])
    decoded = []
    for section in pack.sections:
        with_bits_back = section.posterior is not None
        z = pop_z(stack, model, "fine16" if with_bits_back else "z", section.height, section.width)
        values = 16 * z if with_bits_back else 256 * z + model.integers("z.median")[:, None, None]
        mu, sigma = hyper_synthesis(model, values)
        if pack.version in (4, 5):
            mu, sigma = coarse_parameters(mu, sigma)
        whole, offset = split_mean(mu)
        y_hat = whole + pop_gaussian(stack, sigma, offset)
        if zlib.crc32(y_hat.astype("<i4").tobytes()) % 2**16 != section.latents:
            raise DamagedError("it does not decode to what was coded")
        image = synthesis(model, y_hat.astype(np.float64), section.height, section.width)
        decoded.append(Decoded(y_hat, image))
        if with_bits_back:
            parameters = inferred(model, y_hat, pack)
            give_back(stack, z, *snapped_posterior(parameters, section))
    side = bytes(stack.pop(Uniform(256)) for _ in range(pack.side_bytes))
    if not stack.empty:
        raise DamagedError("the pack holds more than its images")
    stream = hashlib.shake_256(b"ncbatch side information").digest(len(side))
    return decoded[::-1], bytes(a ^ b for a, b in zip(side, stream, strict=True))
