"""Fixtures of the codec's tests: the built-in model, and images made or shipped with scikit-image."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ncbatch.codec.bits_back.encode import PackCandidate, VerifiedPack
from ncbatch.codec.bits_back.encode import encode_pack as encode
from ncbatch.codec.model.checkpoint import Checkpoint
from ncbatch.codec.model.hyperprior import Model
from ncbatch.models import zoo
from tests.codec.packs import RECIPE, find


@pytest.fixture(scope="session")
def checkpoint() -> Checkpoint:
    return zoo.load_builtin("base-0.010")


@pytest.fixture(scope="session")
def model(checkpoint: Checkpoint) -> Model:
    return Model(checkpoint)


@pytest.fixture(scope="session")
def photograph() -> np.ndarray:
    """A real photograph, uint8[300, 451, 3]: sides that are no multiples of anything."""
    import skimage

    with Image.open(Path(skimage.__file__).parent / "data" / "chelsea.png") as image:
        return np.array(image.convert("RGB"))


@pytest.fixture(scope="session")
def posterior_model() -> Model:
    """A model of the kind bits-back."""
    return Model(zoo.load_builtin("bits-back-0.010"))


@pytest.fixture(scope="session")
def crops(photograph: np.ndarray) -> list[np.ndarray]:
    """Four crops of a photograph, of several sizes and shapes."""
    sizes = ((100, 128), (64, 64), (64, 200), (128, 70))  # the first pays for the second
    return [photograph[40 * i : 40 * i + h, 60 * i : 60 * i + w] for i, (h, w) in enumerate(sizes)]


@pytest.fixture(scope="module")
def found(posterior_model: Model, crops: list[np.ndarray]) -> list[PackCandidate]:
    return find(posterior_model, crops)


@pytest.fixture(scope="module")
def packed(posterior_model: Model, found: list[PackCandidate]) -> VerifiedPack:
    return encode(posterior_model, found, RECIPE)
