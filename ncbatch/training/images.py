"""The training corpus in memory: every photograph is read and decoded once."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ncbatch.errors import UsageError
from ncbatch.images.checks import ImageError
from ncbatch.images.pixels import Pixels
from ncbatch.images.read import read_image
from ncbatch.store import Store

log = logging.getLogger(__name__)

_READERS = 4
_SECONDS_PER_LINE = 5.0  # while images are read, which takes minutes from a distant store


@dataclass(frozen=True)
class TrainingImages:
    """Decoded images, uint8[height, width, 3] each, in the order of their keys."""

    images: list[Pixels]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all pixels, hexadecimal: a training on other images arrives at other weights."""
        digest = hashlib.sha256()
        for image in self.images:
            digest.update(str(image.shape).encode() + image.tobytes())
        return digest.hexdigest()

    def crop(self, seed: int, step: int, index: int, size: int) -> Pixels:
        """The crop that a sample sees, uint8[size, size, 3]; it depends on the arguments and the images only.

        Args:
            seed: of the training.
            step: of the training.
            index: of the sample in its batch.
            size: pixels a side.
        """
        rng = np.random.default_rng([seed, step, index])
        image = self.images[rng.integers(len(self.images))]
        top = rng.integers(image.shape[0] - size + 1)
        left = rng.integers(image.shape[1] - size + 1)
        crop = image[top : top + size, left : left + size]
        return crop[:, ::-1] if rng.random() < 0.5 else crop


def read_images(
    corpus: Store, keys: Iterable[str], crop: int, max_bytes: int, purpose: str = "training"
) -> TrainingImages:
    """Reads as many images as fit, and logs how many there are and what became of the others.

    Args:
        corpus: their folder.
        keys: of the images in it.
        crop: pixels a side; smaller images are padded to it by replication.
        max_bytes: how many bytes of decoded pixels to hold; images that do not fit are left out.
        purpose: what the images are for, in messages.

    Raises:
        UsageError: not one image can be read.
    """
    keys = list(keys)
    images: list[Pixels] = []
    unusable = padded = held = 0
    with ThreadPoolExecutor(_READERS) as pool:
        told = time.monotonic()
        for number, pixels in enumerate(pool.map(lambda key: _read(corpus, key), keys), 1):
            if time.monotonic() - told > _SECONDS_PER_LINE:
                told = time.monotonic()
                log.info("reading images for %s: %d of %d", purpose, number, len(keys))
            if pixels is None:
                unusable += 1
            elif held + pixels.nbytes <= max_bytes:
                padded += min(pixels.shape[:2]) < crop
                images.append(_at_least(pixels, crop))
                held += pixels.nbytes
    if not images:
        raise UsageError(f"{corpus.uri} holds no usable image ({unusable} could not be read)")
    log.info("%s", _account(purpose, len(keys), len(images), unusable, padded))
    return TrainingImages(images)


def _account(purpose: str, count: int, kept: int, unusable: int, padded: int) -> str:
    """How many images are in memory, and what became of the others."""
    known = {
        "could not be read": unusable,
        "smaller than the crop, padded to it": padded,
        "left out because --memory is full": count - unusable - kept,
    }
    notes = "".join(f"; {number} {what}" for what, number in known.items() if number)
    return f"{kept} image{'' if kept == 1 else 's'} for {purpose} in memory{notes}"


def _read(corpus: Store, key: str) -> Pixels | None:
    try:
        return read_image(corpus.get(key), alpha="white")
    except ImageError as error:
        log.warning("left out %s: %s", key, error)
        return None


def _at_least(pixels: Pixels, size: int) -> Pixels:
    down, right = (max(size - side, 0) for side in pixels.shape[:2])
    if down or right:
        return np.pad(pixels, ((0, down), (0, right), (0, 0)), mode="edge")
    return pixels
