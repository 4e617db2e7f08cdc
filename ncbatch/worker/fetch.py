"""From planned images to images, or to the reason why there is none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from ncbatch.images.checks import ImageError
from ncbatch.images.limits import ImageLimits
from ncbatch.images.pixels import Pixels
from ncbatch.images.read import read_image
from ncbatch.plan.spec import Variant
from ncbatch.plan.units import PlannedImage
from ncbatch.store import AccessDenied, BucketNotFound, ObjectNotFound, Store, StoreError, StoreUnavailable
from ncbatch.worker.rows import Failure, poisoned_failure


@dataclass(frozen=True)
class FetchedImage:
    """An image to be encoded."""

    image: PlannedImage
    pixels: Pixels


def open_images(
    corpus: Store, images: Iterable[PlannedImage], variant: Variant, poisoned: Mapping[str, str]
) -> Iterator[tuple[PlannedImage, FetchedImage | Failure]]:
    """Opens images one after the other; those that are poisoned are not touched."""
    for image in images:
        if image.key in poisoned:
            yield image, poisoned_failure(poisoned[image.key])
        else:
            yield image, open_image(corpus, image, variant)


def open_image(corpus: Store, image: PlannedImage, variant: Variant) -> FetchedImage | Failure:
    """Fetches and opens an image.

    Raises:
        StoreError: it is not about this image alone.
    """
    try:
        info, data = corpus.get_with_info(image.key)
    except ObjectNotFound:
        corpus.check()  # raises when it is not about this object alone
        return Failure("missing", "the object is gone since the plan was made")
    except (StoreUnavailable, BucketNotFound):
        raise
    except StoreError as error:
        corpus.check()
        return Failure("access_denied" if isinstance(error, AccessDenied) else "refused", str(error))
    if info.etag != image.etag:
        return Failure("changed", "the object changed after the plan was made; run the same command again")
    try:
        limits = ImageLimits(max_pixels=variant.max_pixels)
        return FetchedImage(image, read_image(data, alpha=variant.alpha, limits=limits, name=image.key))
    except ImageError as error:
        return Failure(error.error_class, str(error))
