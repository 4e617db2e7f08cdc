"""Units: the images of one variant that are done, committed and retried together."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from typing_extensions import override

from ncbatch.images.limits import DEFAULT_LIMITS

BYTES_PER_PIXEL = {"png": 2.0, "tif": 2.0, "tiff": 2.0, "bmp": 2.0, "webp": 0.15}
"""About, by suffix; of other images USUAL_BYTES_PER_PIXEL."""

USUAL_BYTES_PER_PIXEL = 0.4
GUESSES = (64 * 64, DEFAULT_LIMITS.max_pixels)
"""The fewest and the most pixels that an image of unknown size is taken for."""


@dataclass(frozen=True, slots=True)
class PlannedImage:
    """One input as it was listed; width and height where its header or a manifest told them.

    Attributes:
        etag: of the object that it is, or of the shard that it lies in.
        bytes: how many it has; of one in Parquet, how many those beside it have on average.
        place: in a shard, as text of `plan.place`; None: it is an object of its own.
        content: SHA-256 of its bytes, in hexadecimal digits, where they have been read; never in a plan.
        caption: text that stands beside it in its shard; likewise.
        json: what else stands there, as a JSON object; likewise.
    """

    key: str
    etag: str
    bytes: int
    width: int | None = None
    height: int | None = None
    place: str | None = None
    content: str | None = None
    caption: str | None = None
    json: str | None = None

    @property
    def has_size(self) -> bool:
        """Whether width and height are known."""
        return bool(self.width and self.height)

    @property
    def pixels(self) -> int:
        """Width times height; a guess where they are unknown: about 0.4 bytes a pixel (JPEG), 0.15 (WebP) or
        2 (PNG), and no more than an image may have by default: an object without a suffix may be anything.
        """
        if self.width and self.height:
            return self.width * self.height
        suffix = self.key.lower().rpartition(".")[2]
        guess = int(self.bytes / BYTES_PER_PIXEL.get(suffix, USUAL_BYTES_PER_PIXEL))
        return min(max(guess, GUESSES[0]), GUESSES[1])


@dataclass(frozen=True, slots=True)
class Unit:
    """The images of one variant that one worker call does.

    images: of a planned unit, they are read from the plan whenever they are asked for.
    """

    id: str
    variant: str
    generation: int
    images: Sequence[PlannedImage]

    @override
    def __hash__(self) -> int:
        return hash(self.id)

    @property
    def pixels(self) -> int:
        """The pixels of all its images, of some a guess (see `PlannedImage.pixels`)."""
        known = getattr(self.images, "pixels", None)
        return sum(image.pixels for image in self.images) if known is None else known

    @property
    def largest_pixels(self) -> int:
        """The pixels of its largest image, likewise."""
        known = getattr(self.images, "longest", None)
        return max(image.pixels for image in self.images) if known is None else known


class Keys(Collection[str]):
    """The keys of images, which are read only when they are asked for."""

    __slots__ = ("_images",)

    def __init__(self, images: Sequence[PlannedImage]) -> None:
        self._images = images

    @override
    def __len__(self) -> int:
        return len(self._images)

    @override
    def __iter__(self) -> Iterator[str]:
        return (image.key for image in self._images)

    @override
    def __contains__(self, key: object) -> bool:
        return any(image.key == key for image in self._images)


def make_units(
    images: Iterable[PlannedImage],
    variant: str,
    variant_digest: str,
    generation: int,
    pixels_per_unit: int,
    at_least: int = 1,
) -> Iterator[Unit]:
    """Cuts images, in their order, into units of about `pixels_per_unit` pixels.

    Args:
        images: of the variant. variant: its name. variant_digest: its digest.
        generation: of the plan.
        pixels_per_unit: how many make a unit.
        at_least: images of a unit, where there are as many.
    """
    last: list[PlannedImage] = []
    for group in _groups(images, pixels_per_unit, at_least):
        if last and len(group) < at_least:
            group = last + group
        elif last:
            yield _unit(last, variant, variant_digest, generation)
        last = group
    if last:
        yield _unit(last, variant, variant_digest, generation)


def _groups(
    images: Iterable[PlannedImage], pixels_per_unit: int, at_least: int
) -> Iterator[list[PlannedImage]]:
    """Only the last one may have fewer than `at_least`."""
    group: list[PlannedImage] = []
    room = pixels_per_unit
    for image in images:
        if group and room < image.pixels // 2 and len(group) >= at_least:
            yield group
            group, room = [], pixels_per_unit
        group.append(image)
        room -= image.pixels
    if group:
        yield group


def _unit(images: Iterable[PlannedImage], variant: str, variant_digest: str, generation: int) -> Unit:
    images = tuple(images)
    digest = hashlib.sha256(f"{variant} {variant_digest} {generation}".encode())
    for image in images:
        digest.update(f"\n{len(image.key)} {image.key} {image.etag}".encode())
    return Unit(digest.hexdigest()[:32], variant, generation, images)
