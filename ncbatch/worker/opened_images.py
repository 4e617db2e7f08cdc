"""Images that were opened for one variant, and may be wanted by the next unit under another."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable

from ncbatch.images.reading import Reading
from ncbatch.plan.inputs import Inputs
from ncbatch.plan.spec import Variant
from ncbatch.plan.units import PlannedImage
from ncbatch.store import Store
from ncbatch.worker.fetch import FetchedImage, Opened, open_image

_Key = tuple[str, str, Reading, int]


class OpenedImages:
    """Opens images, and keeps those that were opened last. Any thread may call it.

    Args:
        corpus: where they are read.
        bound: of the pixels that are kept; 0: none.
    """

    def __init__(self, corpus: Store, bound: int) -> None:
        self._inputs, self._bound = Inputs(corpus), bound
        self._kept: OrderedDict[_Key, FetchedImage] = OrderedDict()
        self._pixels = 0
        self._lock = threading.Lock()

    def expect(self, images: Iterable[PlannedImage]) -> None:
        """Says which images will be opened next, in about their order: of a shard, several come at once."""
        self._inputs.expect(images)

    def open(self, image: PlannedImage, variant: Variant) -> Opened:
        """As `open_image`, of which images only are kept: what failed is tried again."""
        # All that the pixels depend on.
        key = (image.key, image.etag, variant.reading.whole, variant.max_bytes)
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
        if found is not None:
            return found.image, found.as_read(variant.reading)
        image, opened = open_image(self._inputs, image, variant)
        if isinstance(opened, FetchedImage):
            self._keep(key, opened)
            opened = opened.as_read(variant.reading)
        return image, opened

    def _keep(self, key: _Key, found: FetchedImage) -> None:
        if found.area > self._bound:
            return
        with self._lock:
            if key in self._kept:
                return
            self._kept[key] = found
            self._pixels += found.area
            while self._pixels > self._bound:
                self._pixels -= self._kept.popitem(last=False)[1].area
