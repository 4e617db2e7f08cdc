"""The images of a batch as the loop compares reconstructions with them: in the subpixels that g_s leaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ncbatch.codec.model.extents import Extents, fitted
from ncbatch.codec.model.hyperprior import PADDING, STRIDE, Model, Tile
from ncbatch.codec.model.transforms import SUBPIXELS

SUBPIXEL_STRIDE = STRIDE // 2  # points of the image in subpixels per latent and side


@dataclass(frozen=True)
class Originals:
    """Images that share their tensors.

    Attributes:
        subpixels: float32[images, channels, H/2, W/2] in 0..1, as `Model.fast_synthesis` leaves them: zero in
            any channel beyond the twelfth.
        mask: of the same shape, 1 where a subpixel is the image's own and 0 where it is padding; None when
            there is no padding.
        tiles: that the images are computed in.
        extents: of images that differ in size, which are computed in one tile; None where all are as large as
            the tensors. With them there is a mask.
    """

    subpixels: Tensor
    mask: Tensor | None
    tiles: Sequence[Tile]
    extents: Extents | None = None

    @staticmethod
    def of(
        images: Sequence[Tensor],
        sizes: Sequence[tuple[int, int]],
        channels: int = SUBPIXELS,
        whole: tuple[int, int] | None = None,
    ) -> Originals:
        """Of padded images.

        Args:
            images: float32[3, H, W] each.
            sizes: their true heights and widths.
            channels: of the subpixels.
            whole: height and width of the tensors; by default those of the images, which are then all alike.
        """
        padded = [(image.shape[1], image.shape[2]) for image in images]
        height, width = whole or padded[0]
        stacked = torch.stack([fitted(image, height, width) for image in images])
        mask, extents = None, None
        if any(size != (height, width) for size in sizes):
            mask = torch.zeros_like(stacked)
            for plane, (true_height, true_width) in zip(mask, sizes, strict=True):
                plane[:, :true_height, :true_width] = 1
            mask = _subpixels(mask, channels)
        if any(size != (height, width) for size in padded):
            extents = Extents.of(
                [(h // PADDING, w // PADDING) for h, w in padded],
                (height // PADDING, width // PADDING),
                stacked.device,
            )
        tiles = Tile.cover(height // STRIDE, width // STRIDE)
        return Originals(_subpixels(stacked, channels), mask, tiles, extents)

    def only(self, images: Sequence[int]) -> Originals:
        """Some of the images."""
        chosen = list(images)
        mask = None if self.mask is None else self.mask[chosen]
        extents = None if self.extents is None else self.extents.only(chosen)
        return Originals(self.subpixels[chosen], mask, self.tiles, extents)

    @property
    def size_of_only(self) -> tuple[int, int]:
        """The true height and width of the only image."""
        if self.mask is None:
            return 2 * self.subpixels.shape[2], 2 * self.subpixels.shape[3]
        own = F.pixel_shuffle(self.mask[:, :SUBPIXELS], 2)[0, 0]
        return int(own[:, 0].sum()), int(own[0].sum())

    def is_like(self, other: Originals) -> bool:
        """Whether both have a mask, or neither, and both have extents, or neither."""
        masks, extents = (self.mask, other.mask), (self.extents, other.extents)
        return all((mine is None) == (theirs is None) for mine, theirs in (masks, extents))

    def masked(self, *, extents: bool = False) -> Originals:
        """The same with a mask, even if it is all 1, and with extents if asked for."""
        mask = torch.ones_like(self.subpixels) if self.mask is None else self.mask
        found, (height, width) = self.extents, self.subpixels.shape[2:]
        if extents and found is None:
            whole = (2 * height // PADDING, 2 * width // PADDING)
            found = Extents.of([whole] * len(mask), whole, mask.device)
        return Originals(self.subpixels, mask, self.tiles, found)

    @staticmethod
    def together(parts: Sequence[Originals]) -> Originals:
        """Those of several that are alike, in tensors of one size."""
        masks = [part.mask for part in parts if part.mask is not None]
        extents = [part.extents for part in parts if part.extents is not None]
        return Originals(
            torch.cat([part.subpixels for part in parts]),
            torch.cat(masks) if masks else None,
            parts[0].tiles,
            Extents.together(extents) if extents else None,
        )

    def with_put(self, place: int, other: Originals, image: int) -> Originals:
        """These with an image of others, that are alike, over the one at a place, in the same memory."""
        self.subpixels[place].copy_(other.subpixels[image])
        if self.mask is not None and other.mask is not None:
            self.mask[place].copy_(other.mask[image])
        extents = self.extents
        if extents is not None and other.extents is not None:
            extents = extents.with_put(place, other.extents, image)
        return Originals(self.subpixels, self.mask, self.tiles, extents)

    def difference(self, model: Model, y: Tensor, tile: Tile) -> tuple[Tensor, Tensor]:
        """The tile's reconstruction by the loop's g_s, and how far it is off, padding included."""
        reconstruction = tile.core(model.fast_synthesis(tile.latents(y), self.extents), SUBPIXEL_STRIDE)
        with torch.no_grad():
            return reconstruction, reconstruction - tile.pixels(self.subpixels, SUBPIXEL_STRIDE)

    def slope(self, model: Model, y: Tensor, tile: Tile, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The tile's reconstruction, and how far it is off times a weight of each pixel, in its type."""
        reconstruction, difference = self.difference(model, y, tile)
        if weight.dim():
            weight = tile.pixels(weight, SUBPIXEL_STRIDE)
        return reconstruction, torch.mul(difference, weight, out=torch.empty_like(reconstruction.detach()))

    def precise_squared_error(self, model: Model, y_hat: Tensor) -> Tensor:
        """As `squared_error`, by the decoder's g_s."""
        # One by one: a batch's activations in float32 would take more memory than a step.
        height, width = (2 * side for side in self.subpixels.shape[2:])
        own = y_hat if self.extents is None else map(self.extents.own, range(len(y_hat)), y_hat)
        decoded = torch.cat([fitted(model.synthesise(one[None]), height, width) for one in own])
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
                    difference *= tile.pixels(self.mask, SUBPIXEL_STRIDE)
                total += difference.square().double().sum((1, 2, 3))
        return total


def _subpixels(images: Tensor, channels: int) -> Tensor:
    """[images, 3, H, W] as [images, channels, H/2, W/2], laid out as g_s leaves its output."""
    subpixels = F.pixel_unshuffle(images, 2)
    padded = F.pad(subpixels, (0, 0, 0, 0, 0, channels - SUBPIXELS))
    return padded.contiguous(memory_format=torch.channels_last)
