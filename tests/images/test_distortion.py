from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ncbatch.codec.model.precision import full_float32
from ncbatch.images import distortion
from ncbatch.images.pixels import Pixels

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")),
]


@pytest.fixture(scope="module")
def photograph() -> Pixels:
    import skimage

    with Image.open(Path(skimage.__file__).parent / "data" / "chelsea.png") as image:
        return np.array(image.convert("RGB"))


def coarse(image: Pixels, levels: int) -> Pixels:
    return image // levels * levels + levels // 2


@pytest.mark.parametrize("device", DEVICES)
def test_ms_ssim_is_the_same_on_every_device(photograph: Pixels, device: str) -> None:
    """Against the values of the release that computed it on the CPU only."""
    where = torch.device(device)
    with full_float32(where):
        found = [
            distortion.ms_ssim(photograph, coarse(photograph, 4), where),
            distortion.ms_ssim(photograph, coarse(photograph, 32), where),
            distortion.ms_ssim(photograph, np.roll(photograph, 2, 1), where),
            distortion.ms_ssim(photograph[:161, :161], photograph[:161, 100:261], where),
        ]
    then = [0.9991093079249064, 0.933890144030253, 0.8888246615727743, 0.18254783749580383]
    assert found == pytest.approx(then, abs=2e-5)


@pytest.mark.parametrize("device", DEVICES)
def test_images_too_small_for_five_scales_have_none(photograph: Pixels, device: str) -> None:
    image = photograph[:160, :300]
    assert distortion.ms_ssim(image, image, torch.device(device)) is None
