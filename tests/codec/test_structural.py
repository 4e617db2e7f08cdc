"""Refinement for MS-SSIM, alone and mixed with the MSE."""

from __future__ import annotations

import numpy as np
import pydantic
import pytest
import torch.nn.functional as F
from pytorch_msssim import ms_ssim

from ncbatch.codec.distortions import MS_SSIM_SCALE
from ncbatch.codec.encode import encode
from ncbatch.codec.methods import Map, Sga, SgaBitsBack
from ncbatch.codec.model import hyperprior
from ncbatch.codec.model.hyperprior import Model, to_tensor
from ncbatch.codec.refinement.originals import Originals
from ncbatch.codec.refinement.structural import StructuralDistortion

HEIGHT, WIDTH = 170, 200  # padded to 192 x 256


@pytest.fixture
def pixels(photograph: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(photograph[:HEIGHT, :WIDTH])


@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_the_gradient_is_that_of_the_formula_in_tiles_as_well(
    model: Model, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch, weight: float
) -> None:
    recipe = Sga(lmbda=0.01, distortion=f"mix:{weight}")
    image = to_tensor(pixels, model.device)
    y = model.analyse(image)[0]
    leaf = y.detach().float().requires_grad_()
    decoded = F.pixel_shuffle(model.fast_synthesis(leaf, None)[:, :12].float(), 2)[..., :HEIGHT, :WIDTH]
    true = image[..., :HEIGHT, :WIDTH]
    mse = 255**2 * (decoded - true).square().mean()
    distortion = (1 - weight) * mse + weight * MS_SSIM_SCALE * (1 - ms_ssim(decoded, true, data_range=1.0))
    loss = 0.01 * HEIGHT * WIDTH * distortion
    loss.backward()
    assert leaf.grad is not None
    for tile in (hyperprior._TILE, 8):
        monkeypatch.setattr(hyperprior, "_TILE", tile)
        originals = Originals.of([image[0]], [(HEIGHT, WIDTH)], model.subpixels)
        assert (len(originals.tiles) > 1) == (tile == 8)
        structural = StructuralDistortion(model, recipe, originals)
        found = y.detach().float().requires_grad_()
        structural.backward(found)
        assert found.grad is not None
        off = (found.grad - leaf.grad).norm() / leaf.grad.norm()
        assert off < 0.05, "as far as bfloat16 goes"
        error = structural.error(y.detach()) * (0.01 * 255**2 / 3)
        assert error.item() == pytest.approx(loss.item(), rel=0.01)


def test_refinement_lowers_the_loss_that_the_row_tells(model: Model, pixels: np.ndarray) -> None:
    encoded = encode(model, [pixels], Map(lmbda=0.01, steps=20, distortion="ms-ssim", learning_rate=0.03))[0]
    plain = encode(model, [pixels], Map(lmbda=0.01, steps=20, learning_rate=0.03))[0]
    bpp = len(encoded.outcome.data) * 8 / (HEIGHT * WIDTH)
    assert encoded.ms_ssim is not None and plain.ms_ssim is not None and encoded.amortized is not None
    assert encoded.outcome.loss == pytest.approx(bpp + 0.01 * MS_SSIM_SCALE * (1 - encoded.ms_ssim))
    assert encoded.outcome.loss < 0.99 * encoded.amortized.rd_loss
    plain_bpp = len(plain.outcome.data) * 8 / (HEIGHT * WIDTH)
    assert encoded.outcome.loss < plain_bpp + 0.01 * MS_SSIM_SCALE * (1 - plain.ms_ssim)
    assert plain.outcome.mse < encoded.outcome.mse


def test_a_distortion_has_one_text() -> None:
    def text(given: str) -> str:
        return Sga(lmbda=0.01, distortion=given).distortion

    assert [text(each) for each in ("mse", "mix:0", "ms-ssim", "mix:1.0", "mix:0.80")] == [
        "mse", "mse", "ms-ssim", "ms-ssim", "mix:0.8",
    ]  # fmt: skip
    assert "distortion" not in Sga(lmbda=0.01).digested()
    assert Sga(lmbda=0.01, distortion="mix:0.8").digested()["distortion"] == "mix:0.8"
    for wrong in ("ssim", "mix", "mix:2", "mix:nan", "mix:-0.1", "mixed:0.5"):
        with pytest.raises(pydantic.ValidationError, match="is not mse, ms-ssim, or mix:W"):
            text(wrong)


def test_what_does_not_go_with_ms_ssim_is_refused() -> None:
    with pytest.raises(pydantic.ValidationError, match="a target is searched for with the MSE"):
        Sga(lmbda=0.01, distortion="ms-ssim", target_psnr=30.0)
    with pytest.raises(pydantic.ValidationError, match="with bits-back the distortion is the MSE"):
        SgaBitsBack(lmbda=0.01, distortion="ms-ssim")
