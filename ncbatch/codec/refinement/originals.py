"""The images of a batch as the loop compares reconstructions with them: in the subpixels that g_s leaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ncbatch.codec.model.hyperprior import STRIDE, Model, Tile
from ncbatch.codec.model.transforms import SUBPIXELS

_SUBPIXEL_STRIDE = STRIDE // 2  # points of the image in subpixels per latent and side


@dataclass(frozen=True)
class Originals:
    """Images that share their tensors.

    Attributes:
        subpixels: float32[images, channels, H/2, W/2] in 0..1, as `Model.fast_synthesis` leaves them: zero in
            any channel beyond the twelfth.
        mask: of the same shape, 1 where a subpixel is the image's own and 0 where it is padding; None when
            there is no padding.
        tiles: that the images are computed in.
    """

    subpixels: Tensor
    mask: Tensor | None
    tiles: Sequence[Tile]

    @staticmethod
    def of(images: Tensor, sizes: Sequence[tuple[int, int]], channels: int = SUBPIXELS) -> Originals:
        """Of padded images, float32[images, 3, H, W], and their true heights and widths; channels: of the
        subpixels.
        """
        height, width = images.shape[2:]
        mask = None
        if any(size != (height, width) for size in sizes):
            mask = torch.zeros_like(images)
            for plane, (true_height, true_width) in zip(mask, sizes, strict=True):
                plane[:, :true_height, :true_width] = 1
            mask = _subpixels(mask, channels)
        return Originals(_subpixels(images, channels), mask, Tile.cover(height // STRIDE, width // STRIDE))

    def only(self, images: Sequence[int]) -> Originals:
        """Some of the images."""
        chosen = list(images)
        mask = None if self.mask is None else self.mask[chosen]
        return Originals(self.subpixels[chosen], mask, self.tiles)

    def masked(self) -> Originals:
        """The same with a mask, even if it is all 1."""
        mask = torch.ones_like(self.subpixels) if self.mask is None else self.mask
        return Originals(self.subpixels, mask, self.tiles)

    @staticmethod
    def together(parts: Sequence[Originals]) -> Originals:
        """Those of several, of one padded shape and all with a mask or all without."""
        masks = [part.mask for part in parts if part.mask is not None]
        mask = torch.cat(masks) if masks else None
        return Originals(torch.cat([part.subpixels for part in parts]), mask, parts[0].tiles)

    def put(self, place: int, other: Originals, image: int) -> None:
        """Puts an image of others over the one at a place, in the same memory; both have a mask, or
        neither.
        """
        self.subpixels[place].copy_(other.subpixels[image])
        if self.mask is not None and other.mask is not None:
            self.mask[place].copy_(other.mask[image])

    def difference(self, model: Model, y: Tensor, tile: Tile) -> tuple[Tensor, Tensor]:
        """The tile's reconstruction by the loop's g_s, and how far it is off, padding included."""
        reconstruction = tile.core(model.fast_synthesis(tile.latents(y)), _SUBPIXEL_STRIDE)
        with torch.no_grad():
            return reconstruction, reconstruction - tile.pixels(self.subpixels, _SUBPIXEL_STRIDE)

    def slope(self, model: Model, y: Tensor, tile: Tile, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The tile's reconstruction, and how far it is off times a weight of each pixel, in its type."""
        reconstruction, difference = self.difference(model, y, tile)
        if weight.dim():
            weight = tile.pixels(weight, _SUBPIXEL_STRIDE)
        return reconstruction, torch.mul(difference, weight, out=torch.empty_like(reconstruction.detach()))

    def precise_squared_error(self, model: Model, y_hat: Tensor) -> Tensor:
        """As `squared_error`, by the decoder's g_s."""
        # One by one: a batch's activations in float32 would take more memory than a step.
        decoded = torch.cat([model.synthesise(one[None]) for one in y_hat])
        difference = _subpixels(decoded, self.subpixels.shape[1]) - self.subpixels
        if self.mask is not None:
            difference *= self.mask
        return difference.square().double().sum((1, 2, 3))

    def squared_error(self, model: Model, y_hat: Tensor) -> Tensor:
        """Of samples in 0..1, summed over each image's true pixels, by the loop's g_s; float64[images]."""
        total = torch.zeros(len(y_hat), dtype=torch.float64, device=y_hat.device)
        with torch.no_grad():
            for tile in self.tiles:
                difference = self.difference(model, y_hat, tile)[1]
                if self.mask is not None:
                    difference *= tile.pixels(self.mask, _SUBPIXEL_STRIDE)
                total += difference.square().double().sum((1, 2, 3))
        return total


def _subpixels(images: Tensor, channels: int) -> Tensor:
    """[images, 3, H, W] as [images, channels, H/2, W/2], laid out as g_s leaves its output."""
    subpixels = F.pixel_unshuffle(images, 2)
    padded = F.pad(subpixels, (0, 0, 0, 0, 0, channels - SUBPIXELS))
    return padded.contiguous(memory_format=torch.channels_last)
