"""What a TIFF image says beside its pixels. Its EXIF is spread over the directory that describes them."""

from __future__ import annotations

import io
import struct
import warnings

from PIL import ExifTags, Image

from ncbatch.images.carried import Carried
from ncbatch.images.tiff_directory import Directory

_XMP, _IPTC, _ICC = 700, 33723, 34675
_DESCRIPTIVE = (270, 271, 272, 305, 306, 315, 33432)
"""ImageDescription, Make, Model, Software, DateTime, Artist, Copyright: of the others, pixels are made."""
_DIRECTORIES = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)


def metadata_of(directory: Directory) -> tuple[Carried, tuple[str, ...]]:
    """What is found in an image's directory, and what of it is not carried, in words."""
    lost = ["iptc"] if directory.block(_IPTC) else []
    exif = b""
    try:
        exif = _exif(directory)
    except (OSError, SyntaxError, ValueError, KeyError, TypeError, IndexError, struct.error):
        lost.append("damaged exif")  # Pillow says in many ways that it is
    return Carried(directory.block(_ICC), exif, directory.block(_XMP)), tuple(lost)


def _exif(directory: Directory) -> bytes:
    """The EXIF block that another format would have."""
    tags = set(directory.table["tag"].tolist())
    if not tags & {*_DESCRIPTIVE, *map(int, _DIRECTORIES)}:
        return b""
    there, block = Image.Exif(), Image.Exif()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _fill(there, block, directory)
    return block.tobytes().removeprefix(b"Exif\0\0") if len(block) else b""


def _fill(there: Image.Exif, block: Image.Exif, directory: Directory) -> None:
    there.endian, there.bigtiff = directory.order, directory.is_big
    there.load_from_fp(io.BytesIO(directory.data), directory.start)
    for tag in _DESCRIPTIVE:
        if tag in there:
            block[tag] = there[tag]
    for tag in _DIRECTORIES:
        if found := there.get_ifd(tag):
            block[int(tag)] = dict(found)
