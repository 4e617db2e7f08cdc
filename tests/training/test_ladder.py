from typing import Any

import pytest
import torch

from ncbatch.codec.model.checkpoint import export
from ncbatch.codec.model.info import ModelKind
from ncbatch.codec.model.prior import quantile
from ncbatch.errors import NcbatchError
from ncbatch.training.ladder import walk
from ncbatch.training.network import Losses, TrainableHyperprior
from ncbatch.training.settings import LADDER
from ncbatch.training.trainer import _generator
from ncbatch.training.warm_start import warm_start
from tests.training.conftest import settings


def test_the_walk_goes_outwards_from_the_middle() -> None:
    rungs = walk(LADDER, ("base", "bits-back"))
    assert [r.name for r in rungs[:4]] == ["base-0.020", "base-0.010", "base-0.005", "base-0.0025"]
    assert len(rungs) == 14
    done = set()
    for rung in rungs:  # nothing starts from what is not trained yet
        assert rung.parent is None or rung.parent in done
        done.add(rung)
    for rung in rungs:
        if rung.kind == "bits-back":
            assert rung.parent is not None
            assert (rung.parent.kind, rung.parent.lmbda) == ("base", rung.lmbda)


def test_bits_back_alone_still_trains_its_base_models() -> None:
    assert [r.name for r in walk([0.02], ("bits-back",))] == ["base-0.020", "bits-back-0.020"]


def trained(kind: str, seed: int, **fields: Any) -> TrainableHyperprior:
    torch.manual_seed(seed)
    return TrainableHyperprior(settings(kind=kind, **fields))


def losses(model: TrainableHyperprior) -> Losses:
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model(images, model.noise([_generator(0, 0, 0)]))


def test_a_warm_start_computes_what_its_neighbour_does() -> None:
    source = trained("base", 1)
    checkpoint = export(source.network.state_dict(), lmbda=0.01, dtype=torch.float32)
    target = trained("base", 2)
    assert losses(target).bpp != losses(source).bpp
    warm_start(target, checkpoint)
    assert torch.allclose(losses(target).bpp, losses(source).bpp, rtol=1e-5)
    assert torch.allclose(losses(target).mse, losses(source).mse, rtol=1e-5)


def test_a_tapered_model_starts_from_a_tapered_neighbour_of_fewer_channels() -> None:
    source = trained("base", 1, widths=(4, 8, 16))
    checkpoint = export(source.network.state_dict(), lmbda=0.01, dtype=torch.float32)
    target = trained("base", 2, widths=(4, 8, 16), m=20)
    warm_start(target, checkpoint)
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        theirs, ours = source.network.g_a(images), target.network.g_a(images)
        assert torch.allclose(ours[:, :12], theirs, atol=1e-6)
        assert torch.allclose(target.network.g_s(ours), source.network.g_s(theirs), atol=1e-6)


def test_one_width_is_the_same_training_however_it_is_given() -> None:
    assert settings(n=8, widths=(8, 8, 8)) == settings(n=8)
    assert settings(n=8, widths=(8, 8, 16)).widths == (8, 8, 16)


def test_bits_back_starts_with_the_mean_of_base() -> None:
    source = trained("base", 1)
    checkpoint = export(source.network.state_dict(), lmbda=0.01, dtype=torch.float32)
    target = trained("bits-back", 2)
    warm_start(target, checkpoint)
    y = torch.randn(1, 12, 4, 4)
    with torch.no_grad():
        mean, log_variance = target.network.h_a(y).chunk(2, 1)
        assert torch.allclose(mean, source.network.h_a(y), atol=1e-6)
    assert torch.allclose(log_variance.exp(), torch.full_like(log_variance, 1 / 12))
    assert losses(target).bpp_y.item() > 0


def test_bits_back_starts_with_a_prior_as_wide_as_base_codes_with() -> None:
    source = trained("base", 1)
    with torch.no_grad():  # one spike, as base models have in channels that carry nothing
        source.network.entropy_bottleneck.matrices[0][0] += 400
    checkpoint = export(source.network.state_dict(), lmbda=0.01, dtype=torch.float32)
    target = trained("bits-back", 2)
    warm_start(target, checkpoint)
    weights = checkpoint.section("prior"), target.network.entropy_bottleneck.state_dict()
    before, after = (torch.stack([quantile(w, p) for p in (0.16, 0.5, 0.84)]) for w in weights)
    deviation, wanted = (after[2] - after[0]) / 2, ((before[2] - before[0]).square() / 4 + 1 / 12).sqrt()
    assert before[2, 0] - before[0, 0] < 0.1 < 1 < before[2, 1] - before[0, 1]
    assert 0.57 < after[2, 0] - after[0, 0] < 0.58
    assert torch.allclose(deviation, wanted, rtol=1e-3)
    assert torch.allclose(before[1], after[1], rtol=1e-3, atol=1e-3)


def test_weights_of_other_channels_or_kinds_are_refused() -> None:
    bits_back = export(trained("bits-back", 1).network.state_dict(), kind="bits-back", lmbda=0.01)
    with pytest.raises(NcbatchError, match="of the kind base"):
        warm_start(trained("base", 2), bits_back)
    with pytest.raises(NcbatchError, match="N = 16, M = 12; give --n 8"):
        warm_start(trained("bits-back", 2, n=16), bits_back)
    with pytest.raises(NcbatchError, match="M = 12, widths 4,8,16; give"):
        warm_start(trained("bits-back", 2, widths=(4, 8, 16)), bits_back)


@pytest.mark.parametrize("kind", ["base", "bits-back"])
@pytest.mark.parametrize("widths", [None, (8, 12, 20), (10, 8, 8)])
def test_a_wider_model_starts_from_a_narrow_one_with_the_same_image(
    widths: tuple[int, int, int] | None, kind: ModelKind
) -> None:
    source = trained("base", 1)
    checkpoint = export(source.network.state_dict(), lmbda=0.01, dtype=torch.float32)
    target = trained(kind, 2, m=20, widths=widths)
    warm_start(target, checkpoint)
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        theirs, ours = source.network.g_a(images), target.network.g_a(images)
        assert ours.shape[1] == 20 and torch.allclose(ours[:, :12], theirs, atol=1e-6)
        assert torch.allclose(target.network.g_s(ours), source.network.g_s(theirs), atol=1e-6)
        z = source.network.h_a(theirs)
        assert torch.allclose(target.network.h_a(ours)[:, :8], z, atol=1e-6)
        old, new = source.network.h_s(z).chunk(2, 1), target.network.h_s(z).chunk(2, 1)
        # The checkpoint's h_s has 15 bits.
        assert all(torch.allclose(b[:, :12], a, atol=1e-3) for a, b in zip(old, new, strict=True))
    with pytest.raises(NcbatchError, match=r"M = 20.* cannot start"):
        warm_start(trained("base", 3), export(target.network.state_dict(), kind=kind, lmbda=0.01))
