"""What an image file says beside its pixels, in the form in which it is carried along."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ncbatch.images.tiff_directory import upright_exif

_XMP_ORIENTATION = re.compile(rb"""(tiff:Orientation(?:\s*=\s*["']|>)\s*)[2-8](?=\s*["'<])""")

_SRGB_PRIMARIES = {1, 2}  # BT.709, which sRGB has as well, and "unspecified"
_SRGB_TRANSFERS = {1, 2, 6, 13, 14, 15}  # sRGB, and BT.709's kin, which everyone shows as sRGB
_HDR_TRANSFERS = {16, 18}  # PQ and HLG

LARGEST = 1 << 25
"""Bytes of one thing that is carried: a larger one is dropped, but for an alpha plane."""


@dataclass(frozen=True)
class Carried:
    """Bytes beside the pixels; empty where there are none.

    Attributes:
        icc: colour profile.
        exif: TIFF structure, without the "Exif" in front that JPEG has.
        xmp: packet of XML.
        cicp: colour space by four numbers of ITU-T H.273: primaries, transfer, matrix, full range.
        alpha: the alpha plane, as a file of `alpha_plane.coded_plane`.
    """

    icc: bytes = b""
    exif: bytes = b""
    xmp: bytes = b""
    cicp: bytes = b""
    alpha: bytes = b""

    def __bool__(self) -> bool:
        return any((self.icc, self.exif, self.xmp, self.cicp, self.alpha))

    @property
    def is_hdr(self) -> bool:
        """Whether the samples are of high dynamic range (PQ or HLG)."""
        return len(self.cicp) == 4 and self.cicp[1] in _HDR_TRANSFERS


def cicp_of_rgb(primaries: int, transfer: int) -> bytes:
    """The four numbers for RGB samples of full range; empty where they say no more than sRGB."""
    if primaries in _SRGB_PRIMARIES and transfer in _SRGB_TRANSFERS:
        return b""
    return bytes([primaries, transfer, 0, 1]) if max(primaries, transfer) < 256 else b""


def upright(found: Carried, orientation: int) -> tuple[bytes, bytes]:
    """EXIF and XMP of an image whose pixels have been turned upright: they ask for no other turn.

    Args:
        found: as the file has them.
        orientation: that was applied, 1 to 8. XMP alone turns nothing here, so where it is 1, it stays.

    Returns:
        EXIF, empty if it is damaged, and XMP.
    """
    exif = upright_exif(found.exif)
    return exif, found.xmp if orientation == 1 else _XMP_ORIENTATION.sub(rb"\g<1>1", found.xmp)
