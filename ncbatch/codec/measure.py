"""Rate and distortion of encodings: of those that are published, and of the baseline beside them."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from ncbatch.codec import bitstream
from ncbatch.codec.decode import reconstruct
from ncbatch.codec.distortions import MS_SSIM_SCALE
from ncbatch.codec.model.hyperprior import Latents, Model, to_tensor
from ncbatch.codec.model.precision import full_float32
from ncbatch.images import distortion
from ncbatch.images.pixels import Pixels


@dataclass(frozen=True)
class Outcome:
    """Rate and distortion of one encoding, measured on its real bytes and its 8-bit reconstruction.

    Attributes:
        data: the file, or the image's section of its pack.
        bits_y: information content of y in bits; None of a classical codec.
        bits_z: information content of z in bits; None of a classical codec.
        mse: mean squared error on 0..255.
        rd_loss: bits per pixel + lmbda * distortion, the MSE unless the recipe says otherwise; None where
            there is no lmbda.
        decode_seconds: from the bytes to the image.
        bits_back: bits of z that come back; None without bits-back.
        net_bytes: by how much the pack grew for the image (see `bits_back.pack.Share`); None without a pack.
    """

    data: bytes
    bits_y: float | None
    bits_z: float | None
    mse: float
    rd_loss: float | None
    decode_seconds: float
    bits_back: float | None = None
    net_bytes: int | None = None

    @property
    def bytes(self) -> int:
        """What the image costs: the length of its file, or what its pack grew by."""
        return len(self.data) if self.net_bytes is None else self.net_bytes

    @property
    def loss(self) -> float:
        """The rd_loss of a learned codec's encoding, which always has one."""
        assert self.rd_loss is not None
        return self.rd_loss

    @property
    def psnr(self) -> float:
        """In dB; infinite where the image came back exactly."""
        return distortion.psnr(self.mse)

    def as_baseline(self) -> Baseline:
        """Of the amortized encoding that is itself published: its real bytes."""
        return Baseline(len(self.data), self.mse, self.loss)


@dataclass(frozen=True)
class Baseline:
    """Rate and distortion of the amortized encoding, against which refinement is measured.

    Attributes:
        bytes: of its file where that is what is published; otherwise as many as its information content takes
            (see `Reconstruction.expected_bytes`).
        mse: mean squared error on 0..255.
        rd_loss: bits per pixel + lmbda * mse, with these bytes.
    """

    bytes: int
    mse: float
    rd_loss: float

    @property
    def psnr(self) -> float:
        """In dB; infinite where the image came back exactly."""
        return distortion.psnr(self.mse)


@dataclass(frozen=True)
class Reconstruction:
    """Latents with the image that a decoder makes of them, whether they are coded or not.

    Attributes:
        latents: of one image.
        image: uint8[height, width, 3], in float32 from exactly the numbers that a decoder has.
        bits_y: information content of y in bits.
        bits_z: information content of z in bits.
        mse: mean squared error against the original, on 0..255.
        lmbda: weight of that error in the R-D loss.
        seconds: from the latents to the image.
        distortion: what the R-D loss has beside the rate: the MSE, or what stands in its place.
    """

    latents: Latents
    image: Pixels
    bits_y: float
    bits_z: float
    mse: float
    lmbda: float
    seconds: float
    distortion: float

    @property
    def expected_bytes(self) -> int:
        """The length of the file if coding reached the information content: header, whole words, checksum.

        The coder takes about 0.05 % more.
        """
        height, width = self.image.shape[:2]
        return expected_bytes(height, width, self.bits_y + self.bits_z)

    @property
    def expected(self) -> Baseline:
        """As a baseline that is not coded itself."""
        return Baseline(self.expected_bytes, self.mse, self._rd_loss(self.expected_bytes))

    def outcome(self, data: bytes, decode_seconds: float) -> Outcome:
        """Of the file that holds these latents, given the seconds from its bytes to the latents."""
        rd_loss, seconds = self._rd_loss(len(data)), decode_seconds + self.seconds
        return Outcome(data, self.bits_y, self.bits_z, self.mse, rd_loss, seconds)

    def _rd_loss(self, size: int) -> float:
        return size * 8 / (self.image.size // 3) + self.lmbda * self.distortion


def expected_bytes(height: int, width: int, bits: float) -> int:
    """The length of an image's file by its information content (see `Reconstruction.expected_bytes`)."""
    return bitstream.file_bytes(width, height, math.ceil(bits / 32))


def measure(
    model: Model, pixels: Pixels, latents: Latents, lmbda: float, ms_ssim_weight: float = 0.0
) -> Reconstruction:
    """Rate and distortion of one image's latents.

    Args:
        model: of the latents.
        pixels: the original, uint8[height, width, 3].
        latents: of a batch of one.
        lmbda: weight of the distortion.
        ms_ssim_weight: share of MS-SSIM in it (see `codec.refinement.structural`).
    """
    started = time.monotonic()
    image = reconstruct(model, latents, *pixels.shape[:2])
    seconds = time.monotonic() - started
    bits_y, bits_z = (bits.item() for bits in model.information(latents))
    mse = weighed = distortion.mse(pixels, image)
    if ms_ssim_weight:
        quality = ms_ssim(model, pixels, image)
        if quality is None:
            raise ValueError("the image is too small for MS-SSIM; refuse it before it is encoded")
        weighed = (1 - ms_ssim_weight) * mse + ms_ssim_weight * MS_SSIM_SCALE * (1 - quality)
    return Reconstruction(latents, image, bits_y, bits_z, mse, lmbda, seconds, weighed)


def amortized_baseline(
    model: Model, pixels: Pixels, lmbda: float, ms_ssim_weight: float = 0.0
) -> Reconstruction:
    """What the encoder network alone gives, measured and not coded."""
    latents = model.round(*model.analyse(to_tensor(pixels, model.device)))
    return measure(model, pixels, latents, lmbda, ms_ssim_weight)


def ms_ssim(model: Model, pixels: Pixels, image: Pixels) -> float | None:
    """MS-SSIM of two images, on the model's device; None for images that are too small for it."""
    with full_float32(model.device):
        return distortion.ms_ssim(pixels, image, model.device)
