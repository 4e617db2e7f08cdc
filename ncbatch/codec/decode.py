"""Bytes to images. Sees nothing but the bytes and the model."""

from __future__ import annotations

import numpy as np
import torch

from ncbatch.codec import ans, bitstream
from ncbatch.codec.errors import BitstreamError, WrongModelError
from ncbatch.codec.gaussian_tables import coarse
from ncbatch.codec.model.hyperprior import PADDING, Latents, Model, to_pixels
from ncbatch.images.alpha_plane import plane_of
from ncbatch.images.checks import ImageError
from ncbatch.images.limits import ImageLimits
from ncbatch.images.pixels import Pixels


def decode(model: Model, data: bytes, *, max_pixels: int = ImageLimits().max_pixels) -> Pixels:
    """The image of an `.ncb` file, uint8[height, width, 3], or [height, width, 4] with an alpha plane.

    Args:
        model: the one that made the file.
        data: the file's bytes.
        max_pixels: refuses larger images before memory is spent on them.

    Raises:
        BitstreamError: not a whole, sane `.ncb` file.
        WrongModelError: the file was made by another model.
    """
    stream = bitstream.parse(data, max_pixels=max_pixels)
    return with_alpha(decode_stream(model, stream), stream)


def decode_stream(model: Model, stream: bitstream.Bitstream) -> Pixels:
    """The colours of a file that was parsed, uint8[height, width, 3]; errors as of `decode_latents`."""
    return reconstruct(model, decode_latents(model, stream), stream.height, stream.width)


def with_alpha(pixels: Pixels, stream: bitstream.Bitstream) -> Pixels:
    """The colours with the alpha plane that their file carries, uint8[height, width, 4]; without one, as they
    are.

    Raises:
        BitstreamError: the plane is damaged.
    """
    if not stream.carried.alpha:
        return pixels
    try:
        plane = plane_of(stream.carried.alpha, stream.width, stream.height)
    except ImageError as error:
        raise BitstreamError(f"{error.what}; the file is damaged") from error
    return np.dstack([pixels, plane])


def decode_latents(model: Model, stream: bitstream.Bitstream) -> Latents:
    """The integers in a file, which are the same on every machine.

    Raises:
        BitstreamError: the payload is damaged.
        WrongModelError: the file was made by another model.
    """
    if stream.model_digest != bitstream.short_digest(model.digest):
        raise WrongModelError(
            f"the file was made with model {stream.model_digest}, not with {model.digest[:16]}; "
            "name the right one with --model"
        )
    height, width = -(-stream.height // PADDING), -(-stream.width // PADDING)
    stack = ans.new_coder(stream.payload)
    z = torch.from_numpy(model.z_tables.pop(stack, (model.info.n, height, width)))[None].to(model.device)
    sigma = model.coding_parameters(z)[1][0].cpu().numpy()
    popped = ans.pop_gaussian(stack, coarse(sigma) if stream.coarse else sigma)
    y = torch.from_numpy(popped)[None].to(model.device)
    if not stack.is_empty():
        raise BitstreamError("the payload holds more than the image; the file is damaged")
    return Latents(y, z)


def reconstruct(model: Model, latents: Latents, height: int, width: int) -> Pixels:
    """The image that latents stand for, uint8[height, width, 3]."""
    return to_pixels(model.synthesise(model.y_hat(latents)), height, width)
