"""Single images through a learned codec: to bytes and back."""

from __future__ import annotations

import functools
import io
import os
import re
import warnings
from collections.abc import Mapping
from typing import Any, get_args

import numpy as np
import pydantic
import torch
from PIL import Image

from ncbatch.api.places import path_text, store_options
from ncbatch.codec import bitstream
from ncbatch.codec import decode as decoder
from ncbatch.codec import encode as encoder
from ncbatch.codec.bitstream import short_digest
from ncbatch.codec.carrying import carrying
from ncbatch.codec.errors import BitstreamError, WrongModelError
from ncbatch.codec.methods import CODECS, Learned, Refined
from ncbatch.codec.model.hyperprior import Model
from ncbatch.codec.recipe import LearnedRecipe, RefinedRecipe
from ncbatch.codec.target import TARGET_FIELDS
from ncbatch.codec.targeted import Ladder, encode_to_target
from ncbatch.errors import UsageError, first_problem
from ncbatch.images.checks import ImageError
from ncbatch.images.distortion import SMALLEST_SIDE
from ncbatch.images.finished import ReadImage
from ncbatch.images.limits import DEFAULT_LIMITS, MAX_SIDE, ImageLimits
from ncbatch.images.pixels import Pixels
from ncbatch.images.read import read_file
from ncbatch.images.reading import Alpha, Color, Frames, Metadata, Reading
from ncbatch.models import catalog
from ncbatch.models.loading import load_model as load_checkpoint
from ncbatch.models.loading import model_of_file, usable_device
from ncbatch.plan.request import make_variant
from ncbatch.store import ObjectNotFound, StoreOptions
from ncbatch.store.objects import no_file, read_object

__all__ = ["Model", "decode", "encode", "load_model"]

Path = str | os.PathLike[str]

_FIXES = {
    "transparent": 'give alpha="keep", or alpha="white" or "black" for what lies behind it',
    "several_frames": 'give frames="first", or take its frames apart',
}
"""Remedies in arguments, where others name flags."""
_FLAG = re.compile(r"--([a-z][a-z-]*)")


def load_model(
    name: Path,
    *,
    device: torch.device | str | None = None,
    endpoint_url: str | None = None,
    region: str | None = None,
    storage_options: Mapping[str, str] | None = None,
) -> Model:
    """Loads a model, frozen, onto a device.

    Args:
        name: A built-in model (`ncbatch models` lists them), the path or `s3://` URI of a checkpoint, or
            `compressai:mbt2018-mean/<quality 1..8>`, whose weights CompressAI downloads.
        device: Where the model computes; by default a GPU if there is one, else the CPU.
        endpoint_url: The S3 server that an `s3://` URI refers to; by default the environment's.
        region: The region of that server; by default the environment's.
        storage_options: What else S3 needs, by the keys of `--storage-option`, such as
            `{"requester-pays": "true"}`.

    Returns:
        The model. These of its attributes are public: `info`, with `info.lmbda` (the weight of the MSE that
        it was trained with) and `info.kind` ("base" or "bits-back"); `digest`, the SHA-256 of its contents in
        hexadecimal; and `device`.

    Raises:
        NcbatchError: There is no such model or device, or the model's file is damaged.
        TypeError: `name` is neither text nor a path.

    Example:
        >>> import ncbatch
        >>> model = ncbatch.load_model("base-0.010", device="cpu")
        >>> model.info.lmbda, model.info.kind
        (0.01, 'base')
    """
    target = usable_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    name = path_text(name, "name")
    if name in catalog.builtin_models():
        return _builtin(name, str(target))
    return Model(load_checkpoint(name, store_options(endpoint_url, region, storage_options)), target)


@functools.lru_cache(maxsize=8)
def _builtin(name: str, device: str) -> Model:
    """Kept, so that coding image after image without a model of one's own does not load it each time."""
    return Model(load_checkpoint(name, StoreOptions()), device)


def encode(
    image: np.ndarray | Image.Image | Path,
    model: Model | Path | None = None,
    *,
    preset: str | None = None,
    method: str | None = None,
    steps: int | None = None,
    lmbda: float | None = None,
    distortion: str | None = None,
    target_psnr: float | None = None,
    target_bpp: float | None = None,
    target_bytes: int | None = None,
    target_ssim: float | None = None,
    seed: int = 0,
    alpha: Alpha = "refuse",
    color: Color = "convert",
    metadata: Metadata = "keep",
    frames: Frames = "first",
) -> bytes:
    """Compresses one image to the bytes of an `.ncb` file, and decodes them once to check them.

    The latents of the image are optimised for rate + `lmbda` * distortion, which takes seconds to minutes;
    the method "amortized" leaves that out and takes what the encoder network gives. What is returned depends
    on the image, the model and the settings only, up to floating-point differences between devices.

    Args:
        image: uint8[height, width, 3] in RGB or [height, width, 4] in RGBA (a NumPy array or anything that
            converts to one); a PIL image, of which the pixels and the colour profile count and not the EXIF;
            or the path or URI of an image file (PNG, JPEG, WebP, TIFF, BMP, GIF, AVIF, HEIC or JPEG 2000;
            JPEG XL with pillow-jxl-plugin), whose EXIF orientation is applied.
        model: As `load_model` returns or takes it; by default the built-in one trained nearest to `lmbda`.
        preset: "fast" (up to 300 steps), "best" (up to 2000) or "paper" (2000). Without a preset and a
            method, it is "fast".
        method: "sga", "map", "ste", "uniform-noise", "deterministic-annealing" or "amortized". The methods
            with bits-back make packs of several images, which only the command line does.
        steps: Steps of the refinement, in place of the preset's.
        lmbda: Weight of the MSE, on the scale 0..255, against bits per pixel; larger means better and longer.
            By default the model's own, and 0.01 without a model.
        distortion: What is minimised beside the rate: "mse" (the default), "ms-ssim", or "mix:W", a mixture
            with the weight W of MS-SSIM, such as "mix:0.8". `lmbda` keeps its scale. MS-SSIM needs images of
            161 pixels a side.
        target_psnr: PSNR in dB that the image is to have, within 0.05 dB. At most one target is given, in the
            place of `lmbda`: that is searched for, in all the built-in models or in `model`, which takes
            about 1.3 times as many steps. Where no lmbda meets the target, the nearest encoding is returned,
            with a `UserWarning` that says what it came to.
        target_bpp: Bits per pixel that the file is to have, within 1 %.
        target_bytes: Bytes that the file is to have, within 1 %.
        target_ssim: MS-SSIM that the image is to have, plain below 1 and in dB from 1 on, within 0.05 dB.
        seed: Of the noise in the refinement.
        alpha: What becomes of transparent pixels: "keep" carries the alpha channel along without loss,
            "white" and "black" lie behind them; by default an image that has any is refused.
        color: What becomes of a colour profile: "convert" makes the pixels sRGB by it, "keep" leaves them and
            carries the profile along, "ignore" leaves them and drops it.
        metadata: Whether a file's EXIF and XMP are carried along, "keep" or "strip".
        frames: Of a file with several frames or pages the first is encoded; with "refuse", it is an error.

    Returns:
        The file's bytes. `decode` needs nothing else: they name their model.

    Raises:
        NcbatchError: A setting is out of range, there is no such file or model, or the image cannot be read.
        TypeError: `image` is no image at all.
        ValueError: An array of another type or shape.

    Example:
        >>> import numpy as np
        >>> import ncbatch
        >>> image = np.full((32, 48, 3), 128, np.uint8)
        >>> data = ncbatch.encode(image, method="amortized")
        >>> type(data), len(data) < image.nbytes
        (<class 'bytes'>, True)
        >>> refined = ncbatch.encode(image, steps=20)
    """
    reading = _reading(alpha, color, metadata, frames)
    request = {"method": method, "preset": preset, "steps": steps, "lmbda": lmbda, "seed": seed}
    request["distortion"] = distortion
    if preset is None and method is None:
        request["preset"] = "fast"
    if isinstance(model, str | os.PathLike):
        model = load_model(model)
    targets = dict(zip(TARGET_FIELDS, (target_psnr, target_bpp, target_bytes, target_ssim), strict=True))
    request |= targets
    if model is not None and lmbda is None and not any(targets.values()):
        request["lmbda"] = model.info.lmbda
    recipe = _recipe({name: value for name, value in request.items() if value is not None})
    if isinstance(recipe, RefinedRecipe) and recipe.target is not None:
        return _encode_to_target(_read_image(image, reading), model, recipe)
    if model is None:
        model = load_model(catalog.nearest_builtin(recipe.lmbda))
    _check_kind(model)
    read = _read_image(image, reading)
    if recipe.ms_ssim_weight > 0 and min(read.pixels.shape[:2]) < SMALLEST_SIDE:
        raise UsageError(f"distortion: MS-SSIM needs at least {SMALLEST_SIDE} pixels a side; give 'mse'")
    return carrying(encoder.encode(model, [read.pixels], recipe)[0], read.carried).outcome.data


def _check_kind(model: Model) -> None:
    if model.info.kind != "base":
        raise UsageError(
            "a model of the kind bits-back codes packs, which the command line makes: `ncbatch pack`"
        )


def _encode_to_target(read: ReadImage, model: Model | None, recipe: Refined) -> bytes:
    assert recipe.target is not None
    if recipe.target.measure == "ssim" and min(read.pixels.shape[:2]) < SMALLEST_SIDE:
        raise UsageError(
            f"target_ssim: MS-SSIM needs at least {SMALLEST_SIDE} pixels a side; give target_psnr"
        )
    if model is not None:
        _check_kind(model)
        ladder = Ladder((model.info.lmbda,), (model.digest,), lambda digest: model)
    else:
        rungs = sorted((lmbda, name) for name, lmbda in catalog.builtin_models("base").items())
        names = {catalog.describe_builtin(name).digest: name for _, name in rungs}
        ladder = Ladder(
            tuple(lmbda for lmbda, _ in rungs), tuple(names), lambda digest: load_model(names[digest])
        )
    encoded = carrying(encode_to_target(ladder, read.pixels, recipe), read.carried)
    if encoded.sought is not None and encoded.sought.note:
        warnings.warn(encoded.sought.note, UserWarning, stacklevel=3)
    return encoded.outcome.data


def _reading(alpha: Alpha, color: Color, metadata: Metadata, frames: Frames) -> Reading:
    choices = {
        "alpha": (alpha, Alpha),
        "color": (color, Color),
        "metadata": (metadata, Metadata),
        "frames": (frames, Frames),
    }
    for name, (value, kind) in choices.items():
        if value not in get_args(kind):
            raise UsageError(f"{name}: {value!r} is not one of {', '.join(get_args(kind))}")
    limits = ImageLimits(max_pixels=MAX_SIDE**2)  # the caller knows what fits into memory
    return Reading(alpha, color, metadata, frames, limits=limits)


def _recipe(request: dict[str, Any]) -> Learned:
    """The settings of one image, with everything filled in that was left out."""
    if request.get("method") in CODECS:
        raise UsageError(f"method: {request['method']!r} is a codec of its own, and makes no .ncb files")
    try:
        recipe = make_variant(request, StoreOptions()).recipe
    except (UsageError, pydantic.ValidationError) as error:
        problem = first_problem(error) if isinstance(error, pydantic.ValidationError) else str(error)
        # Here they are arguments, not flags.
        raise UsageError(_FLAG.sub(lambda flag: flag[1].replace("-", "_"), problem)) from error
    if not isinstance(recipe, LearnedRecipe) or recipe.uses_bits_back:
        raise UsageError(f"the method {recipe.method} does not make .ncb files; use the command line for it")
    return recipe


def _opened(data: bytes, reading: Reading) -> ReadImage:
    try:
        return read_file(data, reading)
    except ImageError as error:
        fix = _FIXES.get(error.error_class)
        if fix is None:
            raise
        raise ImageError(error.error_class, error.what, fix) from error


def _read_image(image: np.ndarray | Image.Image | Path, reading: Reading) -> ReadImage:
    """The image as the codec takes it."""
    if isinstance(image, str | os.PathLike):
        return _opened(_read(os.fspath(image)), reading)
    if not isinstance(image, Image.Image):
        pixels = _array(image)
        if pixels.shape[2] == 3:
            return ReadImage(pixels)
        image = Image.fromarray(np.ascontiguousarray(pixels))
    file = io.BytesIO()
    try:
        image.save(file, "PNG", compress_level=0)  # one way for palettes, 16 bits and transparency
    except OSError as error:
        raise ImageError("unsupported", f"PIL images of mode {image.mode} are not read") from error
    return _opened(file.getvalue(), reading)


def _array(image: Any) -> np.ndarray:
    """What stands for an image, as uint8[height, width, 3 or 4]."""
    if isinstance(image, bytes | bytearray | memoryview):
        raise TypeError(
            "an image is an array, a PIL image or a path; open the bytes of a file with PIL first"
        )
    pixels = np.asarray(image)
    if pixels.dtype == object:
        raise TypeError(f"not an image but {type(image).__name__}; give an array, a PIL image or a path")
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (3, 4) or 0 in pixels.shape:
        raise ValueError(
            f"an image is uint8[height, width, 3 or 4], not {pixels.dtype}{list(pixels.shape)}; a torch "
            "tensor with its channels first becomes one by .permute(1, 2, 0), and samples are in 0..255"
        )
    if max(pixels.shape[:2]) > MAX_SIDE:
        raise ValueError(f"an image has up to {MAX_SIDE} pixels a side, not {max(pixels.shape[:2])}")
    return pixels


def decode(
    data: bytes | bytearray | memoryview | Path,
    model: Model | Path | None = None,
    *,
    max_pixels: int = DEFAULT_LIMITS.max_pixels,
) -> Pixels:
    """Decompresses the bytes of an `.ncb` file to the image.

    Args:
        data: The bytes, or the path or URI of a file.
        model: The model that made them, as `load_model` returns or takes it. By default it is found by the
            digest that the bytes hold: among the built-in models, and for a file also in the run that it
            lies in.
        max_pixels: Larger images are refused before memory is spent on them.

    Returns:
        uint8[height, width, 3] in RGB; [height, width, 4] in RGBA where the file carries an alpha plane,
        which `encode` puts there with `alpha="keep"`. The latents are the same on every machine; a sample may
        differ by one level between devices.

    Raises:
        NcbatchError: No whole `.ncb` file, or of another or an unknown model.
        TypeError: `data` is neither bytes nor a path.

    Example:
        >>> import numpy as np
        >>> import ncbatch
        >>> data = ncbatch.encode(np.full((32, 48, 3), 128, np.uint8), method="amortized")
        >>> image = ncbatch.decode(data)
        >>> image.shape, image.dtype
        ((32, 48, 3), dtype('uint8'))
    """
    uri = os.fspath(data) if isinstance(data, str | os.PathLike) else None
    if uri is not None:
        content = _read(uri)
    elif isinstance(data, bytes | bytearray | memoryview):
        content = bytes(data)
    else:
        raise TypeError(f"not the bytes of a file but {type(data).__name__}; give bytes, or the file's path")
    try:
        digest = bitstream.parse(content, max_pixels=max_pixels).model_digest
    except BitstreamError as error:
        raise BitstreamError(str(error).replace("--max-pixels", "max_pixels")) from error
    if model is None:
        model = _model_of(digest, uri)
    elif not isinstance(model, Model):
        model = load_model(model)
    return decoder.decode(model, content, max_pixels=max_pixels)


def _model_of(digest: str, uri: str | None) -> Model:
    """The model with a short digest, which a file names."""
    for name, facts in catalog.builtin_facts().items():
        if short_digest(facts.digest) == digest:
            return load_model(name)
    if uri is None:
        raise WrongModelError(
            f"no built-in model has the digest {digest} that made these bytes; give `model`"
        )
    return Model(model_of_file(uri, digest, StoreOptions()), "cuda" if torch.cuda.is_available() else "cpu")


def _read(uri: str) -> bytes:
    """The bytes of a file, by its path or URI."""
    try:
        return read_object(uri, StoreOptions())
    except ObjectNotFound as error:
        raise no_file(uri) from error
