"""TIFF files: which of their images is the image, and what its samples mean. libvips decodes them."""

from __future__ import annotations

import io
import math
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyvips
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from ncbatch.images import libvips
from ncbatch.images.checks import ImageError, check_size
from ncbatch.images.limits import ImageLimits
from ncbatch.images.samples import Samples
from ncbatch.images.tiff_directory import Directory, TiffCutError, tiff_directories
from ncbatch.images.tiff_metadata import metadata_of

# Photometric interpretation -> channels of colour.
_WHITE_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 2, 3, 5, 6
_COLOURS = {_WHITE_IS_ZERO: 1, 1: 1, _RGB: 3, _PALETTE: 1, _CMYK: 4, _YCBCR: 3}

_OLD_JPEG, _JPEG = 6, 7
_DEFLATE = (8, 32946)
_TOLERANT = {2, 3, 4, _JPEG}  # fax and JPEG: their decoders go on behind damage
_BY_PILLOW = {_OLD_JPEG: "old-style JPEG", 34925: "LZMA", 50000: "Zstandard"}
_MOST_PLANES = 8  # each costs a copy of the file, one at a time
_USUAL_TILE, _LARGEST_TILE = 256, 4096  # pixels a side
_MOST_CHANNELS = 65535  # TIFF counts them in 16 bits
_LEAST_CHECKED = 1 << 24  # bytes: a tile may be far larger than its image
_PIECE = 1 << 16  # bytes of a Deflate stream that are unpacked at once
_BT601 = (0.299, 0.587, 0.114)
_FULL_RANGE = (0, 255, 128, 255, 128, 255)  # black and white of Y, Cb and Cr


@dataclass(frozen=True)
class _Layout:
    """What a directory says of its samples, with the defaults of TIFF 6.0."""

    photometric: int
    bits: int
    channels: int
    planar: bool
    compression: int
    extra: tuple[int, ...] | None  # kinds of the channels beside the colours; None: not said
    subsampled: bool
    weights: tuple[float, ...]
    reference: tuple[float, ...]


def read_tiff(data: bytes, limits: ImageLimits) -> Samples:
    """Decodes the first image of full resolution.

    Raises:
        ImageError: the file is damaged or of a kind that is not read.
        pyvips.Error: libvips refuses it.
    """
    try:
        directories = tiff_directories(data)
        if not directories:
            raise ImageError("unsupported", "the TIFF file holds no image")
        full = _full_resolution(directories)
        directory = directories[full[0]]
        layout = _layout(directory)
    except TiffCutError as error:
        raise ImageError("truncated", f"the TIFF file is cut off: {error}") from error
    _check(layout)
    try:
        samples = _samples(data, full[0], directory, layout, limits)
    except pyvips.Error as error:
        if _is_cut(data, directory):
            raise ImageError("truncated", "the TIFF file ends inside its pixels") from error
        raise
    except TiffCutError as error:
        raise ImageError("truncated", f"the TIFF file is cut off: {error}") from error
    if layout.compression in _DEFLATE:
        _check_sums(data, directory, max(2 * samples.colour.nbytes * layout.channels, _LEAST_CHECKED))
    samples.orientation = directory.orientation()
    samples.left_out = len(full) - 1
    samples.found, samples.lost = metadata_of(directory)
    return samples


def _full_resolution(directories: list[Directory]) -> list[int]:
    """Which directories are images in their own right: no thumbnails, levels of a pyramid or masks."""
    full = [
        i
        for i, directory in enumerate(directories)
        if not directory.value(254, 0) & 0b101 and directory.value(255, 1) != 2
    ]
    if full:
        return full
    if len(directories[0].values(330)):
        # As camera raw files do it: what is left here is a preview.
        raise ImageError("unsupported", "the TIFF file keeps its full resolution in a sub-directory")
    return [0]


def _layout(directory: Directory) -> _Layout:
    bits = {int(value) for value in directory.values(258, _MOST_CHANNELS)} or {1}
    if len(bits) > 1:
        raise ImageError("unsupported", "TIFF images whose channels differ in depth are not read")
    if not {int(value) for value in directory.values(339, _MOST_CHANNELS)} <= {1, 4}:
        raise ImageError("unsupported", "signed and floating-point TIFF samples have no defined white")
    if directory.value(262, -1) == _CMYK and directory.value(332, 1) != 1:
        raise ImageError("unsupported", "TIFF images of other inks than CMYK are not read")
    extra = directory.values(338, _MOST_CHANNELS)
    return _Layout(
        photometric=directory.value(262, -1),
        bits=bits.pop(),
        channels=directory.value(277, 1),
        planar=directory.value(284, 1) == 2,
        compression=directory.value(259, 1),
        extra=tuple(int(value) for value in extra) if len(extra) else None,
        subsampled=tuple(directory.values(530, 2)) != (1, 1),
        weights=tuple(directory.values(529, 4)) or _BT601,
        reference=tuple(directory.values(532, 7)) or _FULL_RANGE,
    )


def _check(layout: _Layout) -> None:
    """Refuses what would be decoded wrongly without notice."""
    colours = _COLOURS.get(layout.photometric)
    if layout.photometric < 0:
        raise ImageError("unsupported", "the TIFF image does not say what its channels are")
    if colours is None:
        raise ImageError("unsupported", f"TIFF images of photometric {layout.photometric} are not read")
    if layout.channels < colours:
        raise ImageError("unsupported", "the TIFF image has too few channels for its colours")
    if layout.channels > colours + 1 and layout.extra is None:
        raise ImageError("unsupported", "the TIFF image does not say what its further channels are")
    plain = layout.photometric in (1, _RGB) and layout.channels == colours + 1
    if _alpha_kind(layout, colours) == 1 and not plain:
        raise ImageError("unsupported", "premultiplied alpha is read in RGB and grey TIFF images only")
    if layout.photometric != _YCBCR:
        return
    sane = len(layout.weights) == 3 and min(layout.weights) > 0 and len(layout.reference) == 6
    if layout.bits != 8 or layout.planar or not sane:
        raise ImageError(
            "unsupported", "YCbCr TIFF images are read with 8 bits, one plane and sane coefficients only"
        )
    usual = np.allclose(layout.weights, _BT601, atol=1e-3) and layout.reference == _FULL_RANGE
    if layout.compression in (_OLD_JPEG, _JPEG) and not usual:
        raise ImageError("unsupported", "JPEG-compressed TIFF images are read with BT.601's YCbCr only")


def _alpha_kind(layout: _Layout, colours: int) -> int:
    """0: no alpha; 1: premultiplied; 2: straight.

    One further channel of no stated kind is taken for alpha.
    """
    if layout.channels == colours:
        return 0
    extra = (layout.extra or (2,))[: layout.channels - colours]
    return next((kind for kind in extra if kind in (1, 2)), 0)


def _samples(data: bytes, page: int, directory: Directory, layout: _Layout, limits: ImageLimits) -> Samples:
    colours = _COLOURS[layout.photometric]
    extras = layout.channels - colours
    if layout.planar and layout.channels > 1:
        if layout.photometric == _PALETTE:
            raise ImageError("unsupported", "palette TIFF images with separate planes are not read")
        channels = _planes(page, directory, layout, limits)
    else:
        channels = _unpacked(data, page, directory, layout, limits)
    if layout.photometric == _PALETTE:
        colours = channels.shape[2] - extras  # libvips has looked the colours up; greys are one channel
    converted = layout.photometric == _YCBCR and (
        layout.subsampled or layout.compression in (_JPEG, _OLD_JPEG)
    )
    if channels.shape[2] != colours + extras and not (converted and extras == 0):
        raise ImageError("unsupported", "libvips counts other channels than the TIFF file names")
    colour = channels[..., :colours]
    kind = _alpha_kind(layout, _COLOURS[layout.photometric])
    opacity = channels[..., colours + (layout.extra or (2,)).index(kind)] if kind else None
    if layout.photometric == _YCBCR and not converted:
        colour = _to_rgb(colour, layout)
    # Of interleaved channels, libvips has divided premultiplied colours by their alpha.
    return Samples(colour, opacity, premultiplied=kind == 1 and layout.planar)


def _unpacked(
    data: bytes, page: int, directory: Directory, layout: _Layout, limits: ImageLimits
) -> np.ndarray:
    """Samples as uint8 or uint16[height, width, channels], with palettes looked up, and grey with black at
    zero.
    """
    if layout.bits == 12 or layout.compression in _BY_PILLOW:
        return _by_pillow(data, page, directory, layout, limits)
    # What libtiff warns of is lost blocks in these, elsewhere an odd tag.
    fail_on = "warning" if layout.compression in _TOLERANT else "error"
    width, height = directory.value(256, 0), directory.value(257, 0)
    whole = _whole_tiles(directory, width, height)
    if whole != (width, height) and math.prod(whole) <= limits.max_pixels:
        data = directory.resized(data, *whole)
    image = libvips.opened(data, "tiffload", fail_on=fail_on, page=page)
    check_size(image.width, image.height, limits)
    return libvips.pixels(image)[:height, :width]


def _whole_tiles(directory: Directory, width: int, height: int) -> tuple[int, int]:
    """The size of an image up to the ends of its tiles, where the tiles are far larger than it is.

    libvips refuses such images, though GDAL writes them of small ones. In all other cases the size as it is.
    """
    across, down = directory.value(322, 0), directory.value(323, 0)
    if not _USUAL_TILE < max(across, down) <= _LARGEST_TILE or min(across, down, width, height) < 1:
        return width, height
    return -(-width // across) * across, -(-height // down) * down


def _planes(page: int, directory: Directory, layout: _Layout, limits: ImageLimits) -> np.ndarray:
    """Planes read one by one: libvips cannot read tiled planes, and reads strips of some kinds wrongly."""
    if layout.channels > _MOST_PLANES:
        raise ImageError("unsupported", f"TIFF images of {layout.channels} planes are not read")
    grey = replace(layout, photometric=1, channels=1, planar=False, extra=None)
    channels: list[np.ndarray] = []
    for number in range(layout.channels):
        data = directory.plane(number, layout.channels)
        plane = _unpacked(data, page, directory, grey, limits)
        if plane.shape[2] != 1:
            raise ImageError("unsupported", "a plane of the TIFF image has several channels")
        channels.append(plane)
    if layout.photometric == _WHITE_IS_ZERO:
        channels[0] = np.iinfo(channels[0].dtype).max - channels[0]
    return np.concatenate(channels, axis=-1)


def _to_rgb(ycc: np.ndarray, layout: _Layout) -> np.ndarray:
    """YCbCr `[height, width, 3]` to RGB by the file's own coefficients, as TIFF 6.0, section 21, says."""
    red, green, blue = layout.weights
    black, white = np.array(layout.reference).reshape(3, 2).T
    scale = np.array([255, 127, 127]) / np.where(white == black, 1, white - black)
    rgb = np.empty_like(ycc)
    for top in range(0, len(ycc), 64):  # in floats, a large image would take eight times its memory
        y, cb, cr = np.moveaxis((ycc[top : top + 64] - black) * scale, -1, 0)
        r, b = y + cr * (2 - 2 * red), y + cb * (2 - 2 * blue)
        g = (y - red * r - blue * b) / green
        rgb[top : top + 64] = np.rint(np.stack([r, g, b], axis=-1)).clip(0, 255)
    return rgb


def _by_pillow(
    data: bytes, page: int, directory: Directory, layout: _Layout, limits: ImageLimits
) -> np.ndarray:
    """Decode what Pillow's libtiff can unpack and libvips' cannot, in the layouts that Pillow has right."""
    colours = _COLOURS[layout.photometric]
    straight = layout.bits == 8 and layout.channels == colours + 1 and _alpha_kind(layout, colours) == 2
    plain = (
        (layout.bits == 8 and layout.photometric in (_WHITE_IS_ZERO, 1, _RGB))
        or (layout.bits in (12, 16) and layout.photometric in (_WHITE_IS_ZERO, 1))
        or (layout.compression == _OLD_JPEG and layout.photometric == _YCBCR)
    )
    mode = {1: "L", 3: "RGB"}.get(colours, "?") if layout.bits == 8 else "I;16"
    not_read = ImageError("unsupported", f"TIFF images like this are not read with {_named(layout)}")
    if not plain or not (layout.channels == colours or straight):
        raise not_read
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if layout.bits > 8 and layout.photometric == _WHITE_IS_ZERO:
                data = directory.plane(0, 1)  # the same with black at zero, the only way that Pillow knows
            image = _Unturned(io.BytesIO(data))
            image.seek(page)
            check_size(*image.size, limits)
            image.load()
        except SyntaxError as error:  # what Pillow makes of every header that it does not understand
            raise not_read from error
        except Image.DecompressionBombError as error:
            what = f"TIFF images so large are not read with {_named(layout)}"
            raise ImageError("too_large", what) from error
    if image.mode.replace("I;16B", "I;16") != mode + "A" * straight:
        raise not_read
    samples = np.asarray(image)
    if layout.bits > 8:
        samples = samples.astype(np.uint16)
        if layout.bits == 12:
            samples = samples << 4 | samples >> 8
        if layout.photometric == _WHITE_IS_ZERO:
            samples = 65535 - samples
    return samples if samples.ndim == 3 else samples[..., None]


class _Unturned(TiffImageFile):
    """An image without the turn that Pillow makes while it loads; the orientation is applied elsewhere."""

    def load_end(self) -> None:
        self._size = self.im.size


def _named(layout: _Layout) -> str:
    name = _BY_PILLOW.get(layout.compression)
    return f"{name} compression" if name else f"{layout.bits} bits a sample"


def _is_cut(data: bytes, directory: Directory) -> bool:
    """Whether a strip or a tile ends behind the last byte."""
    try:
        return any(start + length > len(data) for start, length in _pieces(directory))
    except TiffCutError:
        return True


def _pieces(directory: Directory) -> Iterator[tuple[int, int]]:
    """The first byte and the length of each strip and tile.

    Raises:
        TiffCutError: the table lies beyond the last byte.
    """
    for offsets, sizes in ((273, 279), (324, 325)):
        for start, length in zip(directory.values(offsets), directory.values(sizes), strict=False):
            yield int(start), int(length)


def _check_sums(data: bytes, directory: Directory, budget: int) -> None:
    """Refuses Deflate streams that contradict their checksums, which libtiff never reaches.

    Args:
        budget: how many bytes are unpacked at most, whatever a hostile file holds.
    """
    for start, length in _pieces(directory):
        stream, end = zlib.decompressobj(), min(start + length, len(data))
        try:
            # In small pieces: what a call leaves unread is copied for the next one.
            for first in range(start, end, _PIECE):
                packed = data[first : min(first + _PIECE, end)]
                while packed and not stream.eof and budget > 0:
                    budget -= len(stream.decompress(packed, 1 << 20))
                    packed = stream.unconsumed_tail
        except zlib.error as error:
            raise ImageError("unreadable", "the compressed pixels of the TIFF file are damaged") from error
