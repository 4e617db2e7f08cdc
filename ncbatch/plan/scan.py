"""The true sizes of images, from their headers, while a run is planned.

Units, forecasts and batches count pixels, and a guess by bytes is three or four times off in some formats.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from ncbatch.images.header import image_size
from ncbatch.metrics.parallel import in_parallel
from ncbatch.plan.generations import Wanted
from ncbatch.plan.image_table import image_table
from ncbatch.plan.inputs import Inputs
from ncbatch.plan.place import tells_bytes
from ncbatch.plan.progress_log import logged
from ncbatch.plan.units import PlannedImage
from ncbatch.store import Store, StoreError, StoreUnavailable
from ncbatch.words import counted

log = logging.getLogger(__name__)

_THREADS = 32


class Scan:
    """Reads the headers of images that are about to be planned.

    Args:
        corpus: where they are.
        max_pixels: larger images are refused as soon as they are opened, which takes no time; so their sizes
            are left out of what is planned by.
    """

    def __init__(self, corpus: Store, max_pixels: int) -> None:
        self._inputs, self._max_pixels = Inputs(corpus), max_pixels

    def sized(self, images: Iterable[PlannedImage]) -> Iterator[PlannedImage]:
        """The same images, in their order, with width and height where their headers tell.

        A header that cannot be read leaves its image as it is: the worker that opens it finds out why. Some
        hundred images are held at a time.

        Raises:
            StoreUnavailable: the store is away.
        """
        return in_parallel(self._sized, images, _THREADS)

    def of(self, wanted: Wanted) -> Wanted:
        """The same for each variant's images; a header is read once for all of them."""
        lists = {id(images): images for images in wanted.values()}  # those of a new run are the same one
        if len(lists) == 1:
            (images,) = lists.values()
            return dict.fromkeys(wanted, self._table(images))
        unique = {i.key: i for images in lists.values() for i in images if not i.has_size}
        if not unique:
            return {name: list(images) for name, images in wanted.items()}
        log.info("reading the headers of %s, for sizes", counted(len(unique), "images"))
        for image in logged(self.sized(list(unique.values())), "read the headers of", len(unique)):
            unique[image.key] = image

        def known(image: PlannedImage) -> PlannedImage:
            found = unique.get(image.key, image)
            return found if found.etag == image.etag else image

        found = {name: [known(image) for image in images] for name, images in lists.items()}
        return {name: found[id(images)] for name, images in wanted.items()}

    def _table(self, images: Sequence[PlannedImage]) -> Sequence[PlannedImage]:
        unknown = sum(not image.has_size for image in images)
        if not unknown:
            return images
        log.info("reading the headers of %s, for sizes", counted(unknown, "images"))
        return image_table(logged(self.sized(images), "read the headers of", len(images)))

    def _sized(self, image: PlannedImage) -> PlannedImage:
        if image.has_size or not image.bytes or not tells_bytes(image.place):
            return image
        try:
            size = image_size(lambda offset, length: self._inputs.read_range(image, offset, length))
        except StoreUnavailable:
            raise
        except StoreError as error:
            log.debug("no header of %s: %s", image.key, error)
            return image
        if size is None or size[0] * size[1] > self._max_pixels:
            return image
        return replace(image, width=size[0], height=size[1])
