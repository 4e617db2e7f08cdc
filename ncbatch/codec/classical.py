"""Classical codecs through well-kept libraries, to compare with: images to bytes and back."""

from __future__ import annotations

import io
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from ncbatch.codec.errors import BitstreamError, DecodeCheckError
from ncbatch.codec.methods import Classical
from ncbatch.images.pixels import Pixels
from ncbatch.images.write import write_png

_BPG_SECONDS = 600.0
_FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "jpeg": ("JPEG", {"subsampling": "4:2:0", "optimize": True}),
    "webp": ("WEBP", {"method": 6}),
    "avif": ("AVIF", {"subsampling": "4:4:4", "speed": 4}),
    "hevc": ("HEIF", {"chroma": 444}),  # intra, by x265
}


def encode_classical(recipe: Classical, pixels: Pixels) -> bytes:
    """A whole file in the codec's own format.

    Args:
        recipe: codec and quality.
        pixels: uint8[height, width, 3], RGB.

    Raises:
        DecodeCheckError: the codec cannot code this image, or it is not installed.
    """
    if recipe.method == "bpg":
        return _run_bpg("bpgenc", ("-q", str(recipe.quality), "-f", "444"), write_png(pixels), ".png", ".bpg")
    name, options = _FORMATS[recipe.method]
    _register(recipe)
    sink = io.BytesIO()
    try:
        Image.fromarray(pixels).save(sink, name, quality=recipe.quality, **options)
    except (OSError, ValueError, RuntimeError) as error:  # each format has limits of its own
        raise DecodeCheckError(f"{recipe.method} cannot code this image: {error}") from error
    return sink.getvalue()


def decode_classical(recipe: Classical, data: bytes, max_pixels: int) -> Pixels:
    """The image in a file, uint8[height, width, 3].

    Args:
        recipe: the codec.
        data: the file.
        max_pixels: refuses larger images.

    Raises:
        BitstreamError: the bytes are no such file, or of a larger image.
        DecodeCheckError: BPG's own program is missing or failed.
    """
    if recipe.method == "bpg":
        name, data = "PNG", _run_bpg("bpgdec", (), data, ".bpg", ".png")
    else:
        name = _FORMATS[recipe.method][0]
    _register(recipe)
    try:
        with Image.open(io.BytesIO(data), formats=[name]) as image:
            if image.width * image.height > max_pixels:
                raise BitstreamError(f"an image of {image.width}x{image.height} is larger than {max_pixels}")
            return np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, RuntimeError) as error:
        raise BitstreamError(f"not a whole {recipe.method} file: {error}") from error


def _register(recipe: Classical) -> None:
    if recipe.method == "hevc":
        from pillow_heif import register_heif_opener

        register_heif_opener()


def _run_bpg(program: str, options: tuple[str, ...], data: bytes, suffix: str, wanted: str) -> bytes:
    """Runs a program of BPG, which comes as programs only."""
    path = shutil.which(program)
    if path is None:
        raise DecodeCheckError(f"{program} is not on the PATH; BPG has to be installed by hand")
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / f"in{suffix}", Path(folder) / f"out{wanted}"
        source.write_bytes(data)
        command = [path, *options, "-o", str(target), str(source)]
        try:
            done = subprocess.run(command, capture_output=True, timeout=_BPG_SECONDS, check=False)
        except subprocess.TimeoutExpired as error:
            raise DecodeCheckError(f"{program} was not done after {_BPG_SECONDS:.0f} s") from error
        if done.returncode or not target.exists():
            reason = done.stderr.decode(errors="replace").strip() or f"exit code {done.returncode}"
            raise DecodeCheckError(f"{program} failed: {reason}")
        return target.read_bytes()
