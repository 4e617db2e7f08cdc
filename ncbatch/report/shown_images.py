"""Images as the page shows them: encoded for a browser, with what is written beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ncbatch.codec.model.checkpoint import Checkpoint


@dataclass(frozen=True)
class BrowserFile:
    """An `.ncb` file that the page decodes itself.

    Attributes:
        data: its bytes.
        model: that made it.
        whole: left, top, width and height of what is shown of the image.
        zoom: the same of the crop.
    """

    data: bytes
    model: Checkpoint
    whole: tuple[int, int, int, int]
    zoom: tuple[int, int, int, int]


@dataclass(frozen=True)
class ComparedImage:
    """One side of the slider: either the two images, as PNG, or a file that the page makes them of.

    whole: up to 1,024 pixels a side; zoom: the crop.
    """

    label: str
    whole: bytes = b""
    zoom: bytes = b""
    file: BrowserFile | None = None


@dataclass(frozen=True)
class Comparison:
    """left, right: places in `shown` of what the slider opens with."""

    image_key: str
    shown: tuple[ComparedImage, ...]
    left: int
    right: int


@dataclass(frozen=True)
class Thumbnail:
    """One image as JPEG; the originals are None where they cannot be read.

    crop, original_crop: the place with the largest error, in full size; without the original, the middle.
    """

    row: dict[str, Any]
    whole: bytes
    crop: bytes
    original_whole: bytes | None
    original_crop: bytes | None


@dataclass(frozen=True)
class Gallery:
    """groups: titles and images; left_out: images for which there was no time."""

    variant: str
    groups: tuple[tuple[str, tuple[Thumbnail, ...]], ...]
    left_out: int
