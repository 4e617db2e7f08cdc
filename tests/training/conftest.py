"""Fixtures of the training's tests: a tiny network and a few images made on the spot."""

from typing import Any

import numpy as np
import pytest
from PIL import Image

from ncbatch.store import Store, open_store
from ncbatch.training.images import TrainingImages, read_images
from ncbatch.training.settings import TrainingSettings

TINY = {"n": 8, "m": 12, "crop": 64, "batch_size": 4, "warmup": 2}


def make_image(seed: int, height: int, width: int) -> np.ndarray:
    """Smooth colours with an edge and some grain: something to learn."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / 40
    waves = [np.sin(x * rng.uniform(0.2, 2) + y * rng.uniform(0.2, 2) + rng.uniform(0, 6)) for _ in range(3)]
    pixels = 128 + 70 * np.stack(waves, -1) + rng.normal(0, 4, (height, width, 3))
    pixels[height // 3 :, width // 2 :] *= 0.5
    return np.clip(pixels, 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with eight images."""
    folder = tmp_path_factory.mktemp("corpus")
    for i in range(8):
        Image.fromarray(make_image(i, 100 + 10 * i, 140)).save(folder / f"{i}.png")
    return open_store(str(folder))


@pytest.fixture(scope="session")
def photographs(corpus: Store) -> TrainingImages:
    return read_images(corpus, [info.key for info in corpus.list()], 64, 1 << 30)


def settings(**fields: Any) -> TrainingSettings:
    return TrainingSettings(**{"lmbda": 0.01, "steps": 6, **TINY, **fields})
