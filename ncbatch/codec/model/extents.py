"""How far each image reaches in tensors that it shares with images of other sizes.

Images lie in the upper left corners of such tensors. A decoder, which has only the one image, pads with zeros
in every layer; so what lies beyond an image's own border is set to zero before a convolution can see it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]
"""Rows and columns of hyper-latents, the coarsest grid that there is."""

_SCALES = (1, 2, 4, 8, 16, 32)
"""Points per hyper-latent and side, from the hyper-latents to the last layer of g_s."""


@functools.cache
def _zero(device: torch.device) -> Tensor:
    """Of no dimensions, so that what it is put into keeps its type."""
    return torch.zeros((), device=device)


class _Clear(torch.autograd.Function):
    """Zeros in some places: one operation, and one for the gradient; `masked_fill` takes two each."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, where: Tensor) -> Tensor:
        ctx.save_for_backward(where)
        return torch.where(where, _zero(x.device), x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (where,) = ctx.saved_tensors
        return torch.where(where, _zero(where.device), grads[0]), None


@dataclass(frozen=True)
class Extents:
    """Where the images of a batch end.

    Attributes:
        sizes: of each image.
        outside: whether a point lies beyond the border; bool[images, 1, rows, columns] by the scale.
    """

    sizes: tuple[Size, ...]
    outside: dict[int, Tensor]

    @staticmethod
    def of(sizes: Sequence[Size], whole: Size, device: torch.device) -> Extents:
        """Of images of these sizes in tensors of a size that all of them fit in."""
        coarse = torch.ones(len(sizes), 1, *whole, dtype=torch.bool)
        for plane, (rows, columns) in zip(coarse, sizes, strict=True):
            plane[:, :rows, :columns] = False
        coarse = coarse.to(device)
        outside = {s: coarse.repeat_interleave(s, 2).repeat_interleave(s, 3) for s in _SCALES}
        return Extents(tuple(sizes), outside)

    @property
    def whole(self) -> Size:
        """The size of the tensors."""
        rows, columns = self.outside[1].shape[2:]
        return rows, columns

    def clear(self, x: Tensor) -> Tensor:
        """A tensor [images, channels, height, width] of any of the scales, with zeros beyond the borders."""
        cleared: Tensor = _Clear.apply(x, self.outside[x.shape[2] // self.whole[0]])
        return cleared

    def own(self, image: int, x: Tensor) -> Tensor:
        """An image's own part of a tensor [..., height, width] of any of the scales."""
        scale = x.shape[-2] // self.whole[0]
        rows, columns = self.sizes[image]
        return x[..., : rows * scale, : columns * scale]

    def only(self, images: Sequence[int]) -> Extents:
        """Those of some images."""
        chosen = list(images)
        outside = {scale: tensor[chosen] for scale, tensor in self.outside.items()}
        return Extents(tuple(self.sizes[image] for image in chosen), outside)

    @staticmethod
    def together(parts: Sequence[Extents]) -> Extents:
        """Those of several, in tensors of one size."""
        outside = {scale: torch.cat([part.outside[scale] for part in parts]) for scale in _SCALES}
        return Extents(tuple(size for part in parts for size in part.sizes), outside)

    def with_put(self, place: int, other: Extents, image: int) -> Extents:
        """These with another's image at a place, in the same memory."""
        for scale, tensor in self.outside.items():
            tensor[place].copy_(other.outside[scale][image])
        sizes = (*self.sizes[:place], other.sizes[image], *self.sizes[place + 1 :])
        return Extents(sizes, self.outside)


def fitted(x: Tensor, height: int, width: int) -> Tensor:
    """The upper left corner of [..., height, width], or it in the upper left corner of zeros."""
    cropped = x[..., :height, :width]
    return F.pad(cropped, (0, width - cropped.shape[-1], 0, height - cropped.shape[-2]))
