"""How single files are decoded, as their user states it; light, so that a wrong flag is told at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from ncbatch.images.limits import DEFAULT_LIMITS
from ncbatch.settings import STORAGE, Setting, natural, positive_int
from ncbatch.store import StoreOptions


@dataclass(frozen=True)
class PackPart:
    """What is wanted of a pack: the images from number `start` on, or `image` alone; counted from 0."""

    start: Annotated[int | None, Setting(
        "decode only the images from number N on (counted from 0) of a pack; decoding begins with the last, "
        "so a large N is quick", "N", natural, name="from", also=("first",), default="0, all images",
    )] = None  # fmt: skip
    image: Annotated[int | None, Setting(
        "decode only image N (counted from 0) of a pack", "N", natural, also=("picture",),
        default="all images",
    )] = None  # fmt: skip


@dataclass(frozen=True)
class FileOptions:
    """How single files are decoded.

    model: a model's name; None: the one that made the file, if it is built in or kept in the run around it.
    max_pixels: of one image.
    """

    store: Annotated[StoreOptions, STORAGE] = field(default_factory=StoreOptions)
    model: Annotated[str | None, Setting(
        "model that made a single file: a name, a checkpoint's file or URI, or a training's folder", "MODEL",
        default="the one that made it, built in or kept in the run around the file",
    )] = None  # fmt: skip
    max_pixels: Annotated[int, Setting(
        "refuse a single file whose image has more pixels than this", "N", positive_int,
        default="100 million",
    )] = DEFAULT_LIMITS.max_pixels  # fmt: skip
