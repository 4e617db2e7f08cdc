"""What the tests of packs have in common."""

import numpy as np
from torch import Tensor

from ncbatch.codec.bits_back.encode import PackCandidate
from ncbatch.codec.bits_back.encode import find as find_all
from ncbatch.codec.bits_back.pack import PackReader
from ncbatch.codec.methods import BitsBackBbvi, Packed
from ncbatch.codec.model.hyperprior import Model

RECIPE = BitsBackBbvi(lmbda=0.01, bbvi_steps=8)
PIXELS = 10**6


def find(model: Model, images: list[np.ndarray], recipe: Packed = RECIPE) -> list[PackCandidate]:
    return [find_all(model, [image], recipe)[0] for image in images]


def decoded(model: Model, data: bytes) -> tuple[dict[int, Tensor], bytes | None]:
    reader = PackReader(model, data, max_pixels=PIXELS)
    return {unpacked.index: unpacked.y_hat for unpacked in reader.images()}, reader.side_information
