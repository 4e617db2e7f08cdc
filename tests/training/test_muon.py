import numpy as np
import pytest
import torch
from torch import nn

from ncbatch.errors import NcbatchError
from ncbatch.training.images import TrainingImages
from ncbatch.training.muon import Muon, orthogonalized
from ncbatch.training.session import check_settings
from ncbatch.training.trainer import Trainer
from tests.training.conftest import settings

CPU = torch.device("cpu")


@pytest.mark.parametrize("shape", [(8, 8), (8, 200), (64, 1600)])
def test_singular_values_end_near_one(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    matrix[0] *= 20
    values = torch.linalg.svdvals(orthogonalized(matrix))
    assert values.min() > 0.3 and values.max() < 1.3


def test_the_singular_vectors_stay() -> None:
    matrix = torch.randn(6, 40, generator=torch.Generator().manual_seed(1))
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    cosine = (orthogonalized(matrix) * (left @ right)).sum() / (6**0.5 * orthogonalized(matrix).norm())
    assert cosine > 0.97


def test_no_gradient_moves_nothing() -> None:
    weight = nn.Parameter(torch.ones(4, 3, 5, 5))
    weight.grad = torch.zeros_like(weight)
    Muon([weight]).step()
    assert (weight == 1).all()


@pytest.mark.parametrize("shape", [(12, 4, 5, 5), (4, 12, 5, 5)])
def test_a_step_is_about_its_rate_along_either_axis(shape: tuple[int, ...]) -> None:
    weight = nn.Parameter(torch.zeros(shape).to(memory_format=torch.channels_last))
    weight.grad = torch.randn(shape, generator=torch.Generator().manual_seed(2)) * 1000
    Muon([weight], lr=0.1).step()
    axis = shape.index(4)
    values = torch.linalg.svdvals(weight.detach().movedim(axis, 0).flatten(1))
    assert values.min() > 0.05 and values.max() < 0.13
    assert (weight.detach() * weight.grad).sum() < 0


def test_it_needs_fewer_steps_than_adam(photographs: TrainingImages) -> None:
    ends = {}
    for optimizer in ("adam", "muon"):
        asked = settings(steps=60, optimizer=optimizer)
        losses = [report.loss for report in Trainer(asked, photographs, CPU).run()]
        ends[optimizer] = np.mean(losses[-10:])
    assert ends["muon"] < 0.8 * ends["adam"]


def test_a_restored_trainer_goes_on_as_if_it_had_not_stopped(photographs: TrainingImages) -> None:
    asked = settings(steps=8, optimizer="muon")
    whole, first, second = (Trainer(asked, photographs, CPU) for _ in range(3))
    for trainer, steps in ((whole, 8), (first, 3)):
        for _, _ in zip(range(steps), trainer.run(), strict=False):
            pass
    state = first.state()
    second.restore(state)
    assert second.step == state["step"] < 8
    for _ in second.run():
        pass
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, second.model.state_dict()[name]), name


def test_a_training_of_an_earlier_version_continues_with_what_that_did(photographs: TrainingImages) -> None:
    """It knew neither Muon nor rounded latents."""
    state = Trainer(settings(), photographs, CPU).state()
    for name in ("optimizer", "muon_learning_rate", "synthesis_latents"):
        del state["settings"][name]
    check_settings(state, settings(), "there/")
    with pytest.raises(NcbatchError, match="optimizer: adam there, muon asked for"):
        check_settings(state, settings(optimizer="muon"), "there/")
