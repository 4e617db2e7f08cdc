"""Uniform noise that depends on (seed, image, step) only.

A counter is hashed with integer arithmetic, so every device and every batch draws the same numbers, and a
refinement that was interrupted at step t goes on with the noise it would have had.
"""

import hashlib
import math

import torch
from torch import Tensor

_BELOW_ONE = 1 - 2.0**-24


def _mixed(x: Tensor) -> Tensor:
    """A bijection of int32 in which every input bit moves every output bit.

    Multiply-xorshift with the constants of Wellons' `lowbias32`; int32 products wrap on every device.
    """
    x = x ^ ((x >> 16) & 0xFFFF)
    x = x * 0x7FEB352D
    x = x ^ ((x >> 15) & 0x1FFFF)
    x = x * (0x846CA68B - (1 << 32))
    return x ^ ((x >> 16) & 0xFFFF)


class ImageNoise:
    """The noise of one image.

    Args:
        seed: the variant's seed.
        image: bytes that identify the image's content.
    """

    def __init__(self, seed: int, image: bytes) -> None:
        self._prefix = hashlib.blake2b(image, key=str(seed).encode(), digest_size=16).digest()

    def uniform(self, name: str, step: int | str, counter: Tensor) -> Tensor:
        """Numbers in the open interval (0, 1), multiples of 2**-24 plus 2**-25; float32 of the counter's
        shape.

        Args:
            name: of the variable that the noise is for.
            step: of the refinement, or another purpose that it is drawn for.
            counter: int32, distinct for every element.
        """
        digest = hashlib.blake2b(f"{name} {step}".encode(), key=self._prefix, digest_size=8).digest()
        low = int.from_bytes(digest[:4], "little", signed=True)
        high = int.from_bytes(digest[4:], "little", signed=True)
        bits = _mixed(_mixed(counter ^ low) + high)
        # The largest number would round to 1, whose logarithm's complement is infinite.
        return ((bits >> 8) & 0xFFFFFF).to(torch.float32).add_(0.5).mul_(2.0**-24).clamp_max_(_BELOW_ONE)


def normal(uniform: Tensor) -> Tensor:
    """Standard normal numbers from uniform ones in (0, 1)."""
    return math.sqrt(2) * torch.erfinv(2 * uniform - 1)
