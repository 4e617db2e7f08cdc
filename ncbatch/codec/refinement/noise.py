"""Uniform noise that depends on (seed, image, step) only.

A counter is hashed with integer arithmetic, so every device and every batch draws the same numbers, and a
refinement that was interrupted at step t goes on with the noise it would have had.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ncbatch.codec.model.extents import Extents, fitted

_BELOW_ONE = 1 - 2.0**-24


def _mix(x: Tensor) -> Tensor:
    """A bijection of int32 in which every input bit moves every output bit; in place.

    Multiply-xorshift with the constants of Wellons' `lowbias32`; int32 products wrap on every device.
    """
    x.bitwise_xor_((x >> 16).bitwise_and_(0xFFFF)).mul_(0x7FEB352D)
    x.bitwise_xor_((x >> 15).bitwise_and_(0x1FFFF)).mul_(0x846CA68B - (1 << 32))
    return x.bitwise_xor_((x >> 16).bitwise_and_(0xFFFF))


def _open_unit(bits: Tensor) -> Tensor:
    """The upper 24 bits of int32 as numbers in the open interval (0, 1): multiples of 2**-24 plus 2**-25."""
    uniform = (bits >> 8).bitwise_and_(0xFFFFFF) * 2.0**-24
    # The largest number would round to 1, whose logarithm's complement is infinite.
    return uniform.add_(2.0**-25).clamp_max_(_BELOW_ONE)


class ImageNoise:
    """The noise of one image.

    Args:
        seed: the variant's seed.
        image: bytes that identify the image's content.
    """

    def __init__(self, seed: int, image: bytes) -> None:
        self._prefix = hashlib.blake2b(image, key=str(seed).encode(), digest_size=16).digest()

    def key(self, name: str, step: int | str) -> tuple[int, int]:
        """What is hashed with the counters: two int32.

        Args:
            name: of the variable that the noise is for.
            step: of the refinement, or another purpose that it is drawn for.
        """
        digest = hashlib.blake2b(f"{name} {step}".encode(), key=self._prefix, digest_size=8).digest()
        return (
            int.from_bytes(digest[:4], "little", signed=True),
            int.from_bytes(digest[4:], "little", signed=True),
        )

    def uniform(self, name: str, step: int | str, counter: Tensor) -> Tensor:
        """Numbers in the open interval (0, 1); float32 of the counter's shape.

        Args:
            name: of the variable that the noise is for.
            step: of the refinement, or another purpose that it is drawn for.
            counter: int32, distinct for every element.
        """
        low, high = self.key(name, step)
        return _open_unit(_mix(_mix(counter ^ low).add_(high)))


class BatchNoise:
    """The noise of a batch for several variables, drawn at once: by as many operations for any batch.

    Args:
        images: the noise of each.
        variables: the shape of each variable, (channels, height, width), by name.
        device: where it is drawn.
        extents: of the images, where they differ in size: each has the noise of its own shape.

    Attributes:
        images: of whose entries each may be replaced by another image's.
    """

    def __init__(
        self,
        images: Sequence[ImageNoise],
        variables: Mapping[str, torch.Size],
        device: torch.device,
        extents: Extents | None = None,
    ) -> None:
        self.images, self._shapes, self._device = list(images), variables, device
        self._counters = {
            name: (_counter(shape) if extents is None else _counters(shape, extents)).to(device)
            for name, shape in variables.items()
        }
        self._sizes = [shape.numel() for shape in variables.values()]

    def keys(self, steps: Sequence[int | str]) -> Tensor:
        """What `draw` needs at a step of each image; int32[2 variables, images], on the CPU."""
        keys = [
            [image.key(name, step) for image, step in zip(self.images, steps, strict=True)]
            for name in self._shapes
        ]
        return torch.tensor(keys, dtype=torch.int32).transpose(1, 2).reshape(-1, len(self.images))

    def draw(self, keys: Tensor) -> Tensor:
        """What `ImageNoise.uniform` gives for all variables, for `by_name`; float32[images, elements].

        Args:
            keys: of one step, on the noise's device.
        """
        bits = torch.empty(keys.shape[1], sum(self._sizes), dtype=torch.int32, device=self._device)
        parts = bits.split(self._sizes, 1)
        keys = keys.view(len(parts), 2, -1, 1)
        for part, counter, key in zip(parts, self._counters.values(), keys, strict=True):
            torch.bitwise_xor(counter, key[0], out=part)
        _mix(bits)
        for part, key in zip(parts, keys, strict=True):
            part.add_(key[1])
        return _open_unit(_mix(bits))

    def put(self, place: int, other: BatchNoise, image: int) -> None:
        """Puts the noise of another's image at a place, in the same memory; both have extents, or neither."""
        self.images[place] = other.images[image]
        for mine, theirs in zip(self._counters.values(), other._counters.values(), strict=True):
            if mine.dim() > 1:
                mine[place].copy_(theirs[image])

    def by_name(self, drawn: Tensor) -> dict[str, Tensor]:
        """What was drawn for each variable; channels-last float32[images, channels, height, width], whose
        elements are counted in the order of these dimensions.
        """
        return {
            name: part.unflatten(1, (height, width, channels)).permute(0, 3, 1, 2)
            for (name, (channels, height, width)), part in zip(
                self._shapes.items(), drawn.split(self._sizes, 1), strict=True
            )
        }


def _counter(shape: torch.Size) -> Tensor:
    """Numbers of the elements in the order of channels, rows, columns, laid out channels-last; int32."""
    return torch.arange(shape.numel(), dtype=torch.int32).view(shape).permute(1, 2, 0).flatten()


def _counters(shape: torch.Size, extents: Extents) -> Tensor:
    """For each image the numbers that its elements have in a tensor of its own size; int32[images, elements].

    Beyond its border all are 0.
    """
    channels, height, width = shape
    scale = height // extents.whole[0]
    counters = []
    for rows, columns in extents.sizes:
        own = torch.Size((channels, rows * scale, columns * scale))
        planes = torch.arange(own.numel(), dtype=torch.int32).view(own)
        counters.append(fitted(planes, height, width).permute(1, 2, 0).flatten())
    return torch.stack(counters)


def normal(uniform: Tensor) -> Tensor:
    """Standard normal numbers from uniform ones in (0, 1)."""
    return math.sqrt(2) * torch.erfinv(2 * uniform - 1)
