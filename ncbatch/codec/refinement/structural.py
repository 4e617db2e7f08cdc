"""Distortion that is wholly or partly MS-SSIM, in the refinement of one image.

The loss of an image of N pixels is, as a sum like that of the MSE,

    bits + lmbda * N * ((1 - w) * MSE + w * SCALE * (1 - MS-SSIM))

with the MSE on 0..255, MS-SSIM that of Wang et al. 2003 (mean over the channels, dynamic range 255), and w
the weight of MS-SSIM. For w = 1 this is the loss that models are trained with for MS-SSIM (Balle et al.
2018); mixtures are those of Zhao et al. 2017, "Loss Functions for Image Restoration With Neural Networks",
with the MSE in the place of L1. `SCALE` lets lmbda stay what it is under the MSE (see there).

MS-SSIM is of the whole image, so its gradient cannot be computed tile by tile: the tiles are reconstructed
without a graph, the gradient at all of their pixels is computed, and each tile is reconstructed once more to
carry it back. An image of one tile is reconstructed once. Beside the tiles this takes some 100 bytes a pixel.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pytorch_msssim import ms_ssim
from torch import Tensor

from ncbatch.codec.distortions import MS_SSIM_SCALE
from ncbatch.codec.methods import Refined
from ncbatch.codec.model.hyperprior import Model
from ncbatch.codec.model.precision import full_float32
from ncbatch.codec.model.transforms import SUBPIXELS
from ncbatch.codec.refinement.originals import SUBPIXEL_STRIDE, Originals


class StructuralDistortion:
    """The distortion of one image, which has tensors of its own.

    Args:
        model: that reconstructs.
        recipe: with a weight of MS-SSIM.
        originals: of the one image.
    """

    def __init__(self, model: Model, recipe: Refined, originals: Originals) -> None:
        if len(originals.subpixels) != 1 or originals.extents is not None:
            raise ValueError("MS-SSIM is of one image in tensors of its own")
        self._model, self._weight, self._lmbda = model, recipe.ms_ssim_weight, recipe.lmbda
        self._originals = originals
        self._size = originals.size_of_only
        self._image = self._true(originals.subpixels)

    def _true(self, subpixels: Tensor) -> Tensor:
        """The image's own pixels, float32[1, 3, height, width] in 0..1."""
        height, width = self._size
        return F.pixel_shuffle(subpixels[:, :SUBPIXELS].float(), 2)[..., :height, :width]

    def _error(self, subpixels: Tensor) -> Tensor:
        """What stands in the place of the squared error of samples in 0..1, for the whole image; a scalar."""
        height, width = self._size
        found = self._true(subpixels)
        with full_float32(self._model.device):
            dissimilar = 1 - ms_ssim(found, self._image, data_range=1.0)
        samples = 3 * height * width / 255**2
        error = self._weight * MS_SSIM_SCALE * samples * dissimilar
        if self._weight < 1:
            error = error + (1 - self._weight) * (found - self._image).square().sum()
        return error

    def backward(self, y: Tensor) -> None:
        """Adds the gradient of the distortion, as the loss has it, to `y.grad`."""
        tiles = self._originals.tiles
        if len(tiles) == 1:
            reconstruction = self._originals.difference(self._model, y, tiles[0])[0]
            reconstruction.backward(self._slope(reconstruction.detach()).to(reconstruction.dtype))
            return
        slope = self._slope(self._reconstructed(y.detach()))
        for tile in tiles:
            reconstruction = self._originals.difference(self._model, y, tile)[0]
            reconstruction.backward(tile.pixels(slope, SUBPIXEL_STRIDE).to(reconstruction.dtype))

    def _slope(self, subpixels: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = subpixels.float().requires_grad_()
            (slope,) = torch.autograd.grad(self._error(leaf) * (self._lmbda * 255**2 / 3), leaf)
        return slope

    @torch.no_grad()
    def _reconstructed(self, y: Tensor) -> Tensor:
        whole = torch.empty_like(self._originals.subpixels)
        for tile in self._originals.tiles:
            part = self._originals.difference(self._model, y, tile)[0]
            tile.pixels(whole, SUBPIXEL_STRIDE).copy_(part)
        return whole

    @torch.no_grad()
    def error(self, y_hat: Tensor, *, precise: bool = False) -> Tensor:
        """What stands in the place of `Originals.squared_error`; float64[1].

        Args:
            y_hat: of the image.
            precise: by the decoder's g_s, not by the loop's.
        """
        if precise:
            subpixels = F.pixel_unshuffle(self._model.synthesise(y_hat), 2)
        else:
            subpixels = self._reconstructed(y_hat)
        return self._error(subpixels).double().view(1)
