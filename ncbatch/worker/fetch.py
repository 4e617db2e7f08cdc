"""From planned images to images, or to the reason why there is none."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from ncbatch.codec.recipe import RefinedRecipe
from ncbatch.images.carried import Carried
from ncbatch.images.checks import ImageError
from ncbatch.images.distortion import SMALLEST_SIDE
from ncbatch.images.finished import reduced
from ncbatch.images.pixels import Pixels
from ncbatch.images.read import read_file
from ncbatch.images.reading import Reading
from ncbatch.metrics.failures import Failure
from ncbatch.plan.inputs import DamagedShardError, Inputs
from ncbatch.plan.spec import Variant
from ncbatch.plan.units import PlannedImage
from ncbatch.stages import Ahead
from ncbatch.store import AccessDenied, BucketNotFound, ObjectNotFound, StoreError, StoreUnavailable
from ncbatch.worker.bounds import Bounds

Standing = Callable[[PlannedImage], Iterable[tuple[str, bytes]]]
"""Bitstreams that earlier attempts left for an image, as (key, bytes)."""


@dataclass(frozen=True)
class FetchedImage:
    """An image to be encoded.

    Attributes:
        image: as planned.
        pixels: uint8[height, width, 3].
        carried: what goes into its file beside them.
        dropped: what else its input holds, in words.
        standing: what earlier attempts left for it, as (key, bytes).
    """

    image: PlannedImage
    pixels: Pixels
    carried: Carried = field(default_factory=Carried)
    dropped: tuple[str, ...] = ()
    standing: tuple[tuple[str, bytes], ...] = ()

    def as_read(self, reading: Reading) -> FetchedImage:
        """The image with what a variant carries, of everything that can be."""
        carried, dropped = reduced(self.carried, self.dropped, reading)
        return replace(self, carried=carried, dropped=dropped)

    @property
    def area(self) -> int:
        """Width times height."""
        return self.pixels.shape[0] * self.pixels.shape[1]


Opened = tuple[PlannedImage, FetchedImage | Failure]
"""A planned image, with its content where it was read, and what came of opening it."""


Opener = Callable[[PlannedImage, Variant], Opened]
"""Opens an image as a variant wants it; raises StoreError when that is not about this image alone."""


def images_ahead(
    opener: Opener,
    variant: Variant,
    poisoned: Mapping[str, Failure],
    bounds: Bounds,
    standing: Standing = lambda image: (),
) -> Ahead[PlannedImage, Opened]:
    """Opens images before they are asked for; those that are poisoned are not touched."""

    def opened(image: PlannedImage) -> Opened:
        if image.key in poisoned:
            return image, poisoned[image.key]
        image, found = opener(image, variant)
        if isinstance(found, FetchedImage) and (failure := _unfit(variant, found.pixels)):
            return image, failure
        if isinstance(found, FetchedImage):
            found = replace(found, standing=tuple(standing(image)))
        return image, found

    def weight(opened: Opened) -> int:
        found = opened[1]
        return found.area if isinstance(found, FetchedImage) else 0

    return Ahead(opened, lambda image: image.pixels, bounds.fetchers, bounds.ahead, weight)


def _unfit(variant: Variant, pixels: Pixels) -> Failure | None:
    """Why a variant cannot encode an image that could be read."""
    recipe = variant.recipe
    if not isinstance(recipe, RefinedRecipe) or min(pixels.shape[:2]) >= SMALLEST_SIDE:
        return None
    height, width = pixels.shape[:2]
    what = f"{width} x {height} pixels: MS-SSIM needs at least {SMALLEST_SIDE} a side"
    if recipe.target is not None and recipe.target.measure == "ssim":
        return Failure("too_small", f"{what}; encode it into another output with --target-psnr")
    if recipe.ms_ssim_weight:
        return Failure("too_small", f"{what}; encode it into another output with --distortion mse")
    return None


def open_image(inputs: Inputs, image: PlannedImage, variant: Variant) -> Opened:
    """Fetches and opens an image, with everything that can be carried; what is returned of it knows the
    content as well.

    Raises:
        StoreError: it is not about this image alone.
    """
    if image.bytes > variant.max_bytes:
        return image, _too_many_bytes(image.bytes, variant)
    corpus = inputs.corpus
    try:
        read = inputs.read(image)
    except ObjectNotFound:
        corpus.check()  # raises when it is not about this object alone
        return image, Failure("missing", "the object is gone since the plan was made")
    except (StoreUnavailable, BucketNotFound):
        raise
    except StoreError as error:
        corpus.check()
        return image, Failure("access_denied" if isinstance(error, AccessDenied) else "refused", str(error))
    except DamagedShardError as error:
        return image, Failure("damaged_shard", f"the shard cannot be read: {error}")
    except ImageError as error:
        return image, Failure(error.error_class, str(error))
    if read.etag != image.etag:
        changed = "the object changed after the plan was made; run the same command again"
        return image, Failure("changed", changed)
    data = read.data
    image = replace(
        image,
        bytes=len(data),  # which is not known of every image before
        content=hashlib.sha256(data).hexdigest(),
        caption=read.caption,
        json=read.json,
    )
    if image.bytes > variant.max_bytes:
        return image, _too_many_bytes(image.bytes, variant)
    try:
        opened = read_file(data, variant.reading.whole, name=image.key)
        return image, FetchedImage(image, opened.pixels, opened.carried, opened.dropped)
    except ImageError as error:
        return image, Failure(error.error_class, str(error))


def _too_many_bytes(count: int, variant: Variant) -> Failure:
    what = f"the object has {count:,} bytes, and the limit is {variant.max_bytes:,}"
    fix = "leave it out, or encode it into another output with a larger --max-bytes"
    return Failure("too_many_bytes", f"{what}; {fix}")
