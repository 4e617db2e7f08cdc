"""A checkpoint loaded onto one device: its transforms, its rates and its exact coding parameters."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ncbatch.codec.ans import MAX_SYMBOL, FactorizedTables
from ncbatch.codec.model.checkpoint import FINE_GRID, Checkpoint
from ncbatch.codec.model.exact_hyper_synthesis import FINE_STEP, MAX_Z_SYMBOL, UNIT, ExactHyperSynthesis
from ncbatch.codec.model.extents import Extents
from ncbatch.codec.model.known_answer import prove
from ncbatch.codec.model.precision import full_float32
from ncbatch.codec.model.prior import FactorizedPrior
from ncbatch.codec.model.rates import gaussian_bits
from ncbatch.codec.model.threads import one_thread
from ncbatch.codec.model.transforms import SUBPIXELS, Transform
from ncbatch.images.pixels import Pixels

STRIDE = 16
"""Pixels per latent and side."""

PADDING = 64
"""Pixels per hyper-latent and side; images are padded to multiples of it."""

_TILE = 56  # latents per side of a tile: 896 pixels, which bounds memory at any image size
_HALO = 2  # latents beyond a tile that its pixels depend on: 1 + 1/2 + 1/4 + 1/8 for four 5x5 layers
_TILES_AT_ONCE = 4  # on a CPU; each takes some 200 MB at N = 64


def fast_dtype(device: torch.device) -> torch.dtype:
    """The type of the convolutions inside the refinement loop: bfloat16 where the hardware computes in it.

    Elsewhere it would be emulated, which is slower than float32; float16 has too little range for gradients
    of lmbda * 255^2 * SSE.
    """
    if device.type == "cuda":
        computes = torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0)
        return torch.bfloat16 if computes else torch.float32
    native = torch.cpu.get_capabilities()
    has_instructions = native.get("avx512_bf16") or native.get("amx_bf16")
    # oneDNN may have been restricted by its environment; torch then has slow convolutions of its own.
    usable = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if has_instructions and usable else torch.float32


def fast_hyper_dtype(device: torch.device) -> torch.dtype:
    """The type of h_s inside the refinement loop.

    In bfloat16, means of 40 are up to 0.25 off; a last layer in float32 would leave 0.17 of that. On a GPU,
    all of h_s is in float32: TF32, which torch uses there, is four times as precise as bfloat16 at half its
    speed, for a tenth of the step's work. On a CPU, float32 would cost an eighth of the step, and it did not
    make files smaller.
    """
    return torch.float32 if device.type == "cuda" else fast_dtype(device)


@dataclass(frozen=True)
class Latents:
    """The integers that a bitstream holds, for a batch of images of one size.

    Attributes:
        y: mean-centred symbols, int32[batch, M, h, w].
        z: symbols around the medians, int32[batch, N, h/4, w/4].
    """

    y: Tensor
    z: Tensor

    def __getitem__(self, index: int) -> Latents:
        return Latents(self.y[index : index + 1], self.z[index : index + 1])

    def only(self, images: Sequence[int]) -> Latents:
        """Those of some images."""
        chosen = list(images)
        return Latents(self.y[chosen], self.z[chosen])

    def with_more(self, others: Latents) -> Latents:
        """These, and others of the same size behind them."""
        return Latents(torch.cat([self.y, others.y]), torch.cat([self.z, others.z]))

    def cropped(self, height: int, width: int) -> Latents:
        """Those of the upper left corner, of a padded height and width in pixels."""
        y = self.y[:, :, : height // STRIDE, : width // STRIDE]
        return Latents(y.contiguous(), self.z[:, :, : height // PADDING, : width // PADDING].contiguous())

    def equals(self, other: Latents) -> bool:
        """Whether all symbols are the same."""
        return torch.equal(self.y, other.y) and torch.equal(self.z, other.z)


@dataclass(frozen=True)
class Tile:
    """A rectangle of latents that is computed by itself, so that memory is bounded at any image size.

    Attributes:
        top, bottom, left, right: its core, in latents.
        crop: top, bottom, left and right of the core with its halo, on which the core's pixels depend.
    """

    top: int
    bottom: int
    left: int
    right: int
    crop: tuple[int, int, int, int]

    @staticmethod
    def cover(height: int, width: int) -> list[Tile]:
        """Tiles that cover `height` x `width` latents."""
        return [
            Tile(
                top, min(top + _TILE, height), left, min(left + _TILE, width),
                (max(top - _HALO, 0), min(top + _TILE + _HALO, height),
                 max(left - _HALO, 0), min(left + _TILE + _HALO, width)),
            )
            for top in range(0, height, _TILE) for left in range(0, width, _TILE)
        ]  # fmt: skip

    def latents(self, y: Tensor) -> Tensor:
        """The tile's crop of y, [batch, M, h, w]."""
        top, bottom, left, right = self.crop
        return y[:, :, top:bottom, left:right]

    def pixels(self, x: Tensor, scale: int = STRIDE) -> Tensor:
        """The core's part of a whole image [batch, channels, height, width] with `scale` points per latent
        and side.
        """
        return x[:, :, self.top * scale : self.bottom * scale, self.left * scale : self.right * scale]

    def core(self, crop: Tensor, scale: int = STRIDE) -> Tensor:
        """The core's part of what was computed from the crop, with `scale` points per latent and side."""
        top, left = (self.top - self.crop[0]) * scale, (self.left - self.crop[2]) * scale
        height, width = (self.bottom - self.top) * scale, (self.right - self.left) * scale
        if crop.shape[2:] == (height, width):  # no graph for a slice that takes all
            return crop
        return crop[:, :, top : top + height, left : left + width]


class Model:
    """A frozen mean-scale hyperprior (Minnen et al. 2018, without the context model) on one device.

    Transforms are made when they are first asked for. Those called `precise_*` compute in float64, for what
    encoder and decoder must both arrive at (see `bits_back.bbvi`).

    Attributes:
        info: what the checkpoint says of itself: kind, sizes, lmbda.
        digest: of the checkpoint, hexadecimal.
        device: where it computes.
        z_tables: the frequency tables of p(z) on the grid of plain files.

    Raises:
        InexactDeviceError: the device computes other coding parameters than a CPU.
    """

    def __init__(self, checkpoint: Checkpoint, device: torch.device | str = "cpu") -> None:
        self.info, self.digest = checkpoint.info, checkpoint.digest
        self.device = torch.device(device)
        self._checkpoint = checkpoint
        self._exact = ExactHyperSynthesis(checkpoint.integer_layers(), self.device)
        prove(self._exact, checkpoint)
        self._last: tuple[Tensor | None, tuple[Tensor, Tensor] | None] = (None, None)
        self._medians = checkpoint.section("z")["median"].to(self.device).view(1, -1, 1, 1)
        self.z_tables = _tables(checkpoint, "z")

    def _transform(self, kind: str, dtype: torch.dtype) -> Transform:
        return Transform(self._checkpoint.section(kind), kind, dtype, self.device)

    @cached_property
    def analysis(self) -> Transform:
        """g_a in float32."""
        return self._transform("g_a", torch.float32)

    @cached_property
    def hyper_analysis(self) -> Transform:
        """h_a in float32."""
        return self._transform("h_a", torch.float32)

    @cached_property
    def synthesis(self) -> Transform:
        """g_s in float32."""
        return self._transform("g_s", torch.float32)

    @cached_property
    def fast_synthesis(self) -> Transform:
        """g_s as the refinement loop uses it: in `fast_dtype`, with the image left in subpixels."""
        section = self._checkpoint.section("g_s")
        dtype, subpixels = fast_dtype(self.device), self.subpixels
        return Transform(section, "g_s", dtype, self.device, subpixels=subpixels)

    @property
    def subpixels(self) -> int:
        """Channels of what `fast_synthesis` leaves: on a GPU, whose kernels take eight at a time, there are
        four beside those of the image, which are zero.
        """
        return SUBPIXELS + 4 if self.device.type == "cuda" else SUBPIXELS

    @cached_property
    def fast_hyper_synthesis(self) -> Transform:
        """h_s as the refinement loop uses it, in `fast_hyper_dtype`."""
        return self._transform("h_s", fast_hyper_dtype(self.device))

    @cached_property
    def prior(self) -> FactorizedPrior:
        """p(z) in float32."""
        return FactorizedPrior(self._checkpoint.section("prior"), torch.float32, self.device)

    # In float64, for what encoder and decoder must both arrive at (see `bits_back.bbvi`).

    @cached_property
    def precise_hyper_analysis(self) -> Transform:
        """h_a in float64."""
        return self._transform("h_a", torch.float64)

    @cached_property
    def precise_hyper_synthesis(self) -> Transform:
        """h_s in float64."""
        return self._transform("h_s", torch.float64)

    @cached_property
    def precise_prior(self) -> FactorizedPrior:
        """p(z) in float64."""
        return FactorizedPrior(self._checkpoint.section("prior"), torch.float64, self.device)

    @cached_property
    def fine_tables(self) -> FactorizedTables:
        """The frequency tables of p(z) on the fine grid; only a model of the kind bits-back has them."""
        return _tables(self._checkpoint, FINE_GRID)

    @cached_property
    def medians(self) -> Tensor:
        """The medians of p(z), float32[1, N, 1, 1]; without bits-back, z lies on the integers around them."""
        return self._medians.to(torch.float32) / UNIT

    def analyse(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What the encoder network alone gives.

        Args:
            images: float32[batch, 3, H, W] in 0..1, sides multiples of PADDING.

        Returns:
            y float32[batch, M, H/16, W/16] and z float32[batch, N, H/64, W/64], not rounded.
        """
        # One by one: the kernels chosen for a batch may round differently from those for one image.
        with full_float32(self.device):
            pairs = [self._analyse_one(image[None]) for image in images]
        return torch.cat([y for y, _ in pairs]), torch.cat([z for _, z in pairs])

    def _analyse_one(self, image: Tensor) -> tuple[Tensor, Tensor]:
        height, width = image.shape[2] // STRIDE, image.shape[3] // STRIDE
        y = torch.empty(1, self.info.m, height, width, device=self.device)
        with torch.no_grad():
            for tile in Tile.cover(height, width):
                top, bottom, left, right = (side * STRIDE for side in tile.crop)
                crop = self.analysis(image[:, :, top:bottom, left:right])
                y[:, :, tile.top : tile.bottom, tile.left : tile.right] = tile.core(crop, 1)
            # Of q(z|y) of a bits-back model this is the mean. Contiguous as y is: optimizer states are
            # saved and restored in that layout.
            return y, self.hyper_analysis(y)[:, : self.info.n].contiguous()

    def coding_parameters(self, z: Tensor, extents: Extents | None = None) -> tuple[Tensor, Tensor]:
        """The mean mu and the standard deviation sigma of y, exactly the same on every machine.

        The last answer is kept, since rounding, rate and reconstruction of the same latents all ask for it.

        Args:
            z: symbols, int32[batch, N, h/4, w/4]; may not be changed in place afterwards.
            extents: of the images, where they differ in size, the same each time.

        Returns:
            int32[batch, M, h, w] each, in units of 1/UNIT.
        """
        # One reference, read and written whole: threads may share a model.
        asked, answer = self._last
        if asked is not z or answer is None:
            answer = self._exact(z * UNIT + self._medians, extents)
            self._last = z, answer
        return answer

    def fine_coding_parameters(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """As `coding_parameters`, for symbols on the fine grid of z; no answer is kept."""
        return self._exact(z * FINE_STEP)

    def round(self, y: Tensor, z: Tensor, extents: Extents | None = None) -> Latents:
        """Rounds z around its medians, then y around the mu that the decoder will compute from that z."""
        z_symbols = (z - self.medians).round().clamp(-MAX_Z_SYMBOL, MAX_Z_SYMBOL).to(torch.int32)
        mu, _ = self.coding_parameters(z_symbols, extents)
        y_symbols = (y - mu.to(torch.float32) / UNIT).round().clamp(-MAX_SYMBOL, MAX_SYMBOL)
        return Latents(y_symbols.to(torch.int32), z_symbols)

    def y_hat(self, latents: Latents, extents: Extents | None = None) -> Tensor:
        """The decoded latents, float32[batch, M, h, w]; they are multiples of 1/UNIT."""
        mu, _ = self.coding_parameters(latents.z, extents)
        return (latents.y * UNIT + mu).to(torch.float32) / UNIT

    def information(self, latents: Latents, extents: Extents | None = None) -> tuple[Tensor, Tensor]:
        """Information content of y and of z in bits; float64[batch] each."""
        _, sigma = self.coding_parameters(latents.z, extents)
        with torch.no_grad(), full_float32(self.device):
            bits_y = gaussian_bits(latents.y.float(), sigma.float() / UNIT)
            if extents is not None:
                bits_y = extents.clear(bits_y)
            bits_z = self.prior.bits(latents.z.float() + self.medians, extents=extents)
        return bits_y.double().sum((1, 2, 3)), bits_z.double()

    def synthesise(self, y_hat: Tensor) -> Tensor:
        """The reconstruction, float32[batch, 3, H, W]; samples lie about in 0..1 and are not clipped.

        The same on a device each time. On a CPU it does not depend on the number of threads either: each tile
        is computed by one, and several tiles at a time.
        """
        batch, _, height, width = y_hat.shape
        image = torch.empty(batch, 3, height * STRIDE, width * STRIDE, device=self.device)
        synthesis, tiles = self.synthesis, Tile.cover(height, width)  # made before threads ask for it

        def paint(tile: Tile) -> None:
            with torch.no_grad(), one_thread():
                tile.pixels(image).copy_(tile.core(synthesis(tile.latents(y_hat))))

        at_once = min(len(tiles), torch.get_num_threads(), _TILES_AT_ONCE) if self.device.type == "cpu" else 1
        if at_once == 1:
            with full_float32(self.device):
                for tile in tiles:
                    paint(tile)
        else:
            with ThreadPoolExecutor(at_once) as pool:
                list(pool.map(paint, tiles))
        return image


def _tables(checkpoint: Checkpoint, grid: str) -> FactorizedTables:
    section = checkpoint.section(grid)
    return FactorizedTables(*(section[name].numpy() for name in ("first", "lengths", "frequencies")))


def to_tensor(pixels: Pixels, device: torch.device) -> Tensor:
    """An image uint8[height, width, 3] as float32[1, 3, H, W] in 0..1, padded by replication."""
    height, width = pixels.shape[:2]
    padded = np.pad(pixels, ((0, -height % PADDING), (0, -width % PADDING), (0, 0)), mode="edge")
    return torch.from_numpy(padded).to(device).permute(2, 0, 1)[None].to(torch.float32) / 255


def to_pixels(image: Tensor, height: int, width: int) -> Pixels:
    """One reconstruction, float32[1, 3, H, W] in 0..1, as uint8[height, width, 3] without its padding."""
    levels = (image[0, :, :height, :width] * 255).round().clamp(0, 255)
    return levels.permute(1, 2, 0).to(torch.uint8).contiguous().cpu().numpy()
