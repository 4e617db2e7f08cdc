"""The true sizes of images, from their headers, while a run is planned.

Units, forecasts and batches count pixels, and a guess by bytes is three or four times off in some formats.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ncbatch.images.header import image_size
from ncbatch.metrics.parallel import in_parallel
from ncbatch.plan.progress_log import logged
from ncbatch.plan.units import PlannedImage
from ncbatch.store import Store, StoreError, StoreUnavailable
from ncbatch.words import counted

log = logging.getLogger(__name__)

Size = tuple[int, int]


class Scan:
    """Reads the headers of images that are about to be planned.

    Args:
        corpus: where they are.
        max_pixels: larger images are refused as soon as they are opened, which takes no time; so their sizes
            are left out of what is planned by.
    """

    def __init__(self, corpus: Store, max_pixels: int) -> None:
        self._corpus, self._max_pixels = corpus, max_pixels

    def of(self, wanted: Mapping[str, Sequence[PlannedImage]]) -> dict[str, list[PlannedImage]]:
        """The same images with width and height, where their headers tell; each is read once.

        A header that cannot be read leaves its image as it is: the worker that opens it finds out why.

        Raises:
            StoreUnavailable: the store is away.
        """
        unknown = {
            image.key: image
            for images in wanted.values()
            for image in images
            if image.bytes and not (image.width and image.height)
        }
        sizes: dict[str, Size] = {}
        if unknown:
            log.info("reading the headers of %s, for sizes", counted(len(unknown), "images"))
            found = in_parallel(self._size, unknown.values())
            for image, size in logged(found, "read the headers of", len(unknown)):
                if size is not None:
                    sizes[image.key] = size
            log.debug("%d of %d headers tell a size", len(sizes), len(unknown))
        return {name: [_sized(image, sizes) for image in images] for name, images in wanted.items()}

    def _size(self, image: PlannedImage) -> tuple[PlannedImage, Size | None]:
        try:
            size = image_size(lambda offset, length: self._corpus.get_range(image.key, offset, length))
        except StoreUnavailable:
            raise
        except StoreError as error:
            log.debug("no header of %s: %s", image.key, error)
            return image, None
        return image, size if size is not None and size[0] * size[1] <= self._max_pixels else None


def _sized(image: PlannedImage, sizes: Mapping[str, Size]) -> PlannedImage:
    if image.key not in sizes:
        return image
    width, height = sizes[image.key]
    return replace(image, width=width, height=height)
