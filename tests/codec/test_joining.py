"""Images that join a refinement in the middle of others become what they become alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ncbatch.codec.encode import FoundLatents, encode, find_latents, finish
from ncbatch.codec.methods import Sga
from ncbatch.codec.model.hyperprior import Model, to_tensor
from ncbatch.codec.refinement.adam import PerImageAdam
from ncbatch.codec.refinement.batch import Refinement
from ncbatch.codec.refinement.convergence import Convergence
from ncbatch.codec.refinement.loop import Target
from ncbatch.codec.refinement.noise import ImageNoise
from tests.codec.test_refinement import (
    ON_DEVICES,
    STOPPING,
    _let_stop,
    joint_refinement,
    refinement,
)


@pytest.fixture(scope="module")
def images(photograph: np.ndarray) -> list[np.ndarray]:
    """Five images of one padded shape, 64 x 128, two of them without padding."""
    corners = (
        (64, 128, 0, 0),
        (60, 100, 90, 40),
        (64, 128, 120, 200),
        (50, 128, 200, 300),
        (64, 90, 30, 160),
    )
    return [photograph[top : top + h, left : left + w] for h, w, top, left in corners]


def _join(work: Refinement, image: np.ndarray, model: Model) -> None:
    target = Target(image.shape[0], image.shape[1], ImageNoise(0, image.tobytes()))
    work.join(to_tensor(image, model.device), [target])


def test_adam_is_pytorchs_for_every_image() -> None:
    """Each image at a step and a rate of its own."""
    random = torch.Generator().manual_seed(0)
    values = torch.randn(3, 50, generator=random)
    gradients = torch.randn(8, 3, 50, generator=random)
    begins, rates = (0, 3, 5), (0.1, 0.02, 5e-3)
    adam = PerImageAdam(values.clone(), 0.8, 0.99)
    taken = [0, 0, 0]
    ours = adam._values
    for step in range(8):
        for image, begin in enumerate(begins):
            if begin == step:  # as an image that joins
                ours[image], adam.mean[image], adam.square[image], taken[image] = values[image], 0, 0, 0
        factors = [adam.factors(t, rate) for t, rate in zip(taken, rates, strict=True)]
        adam.step(gradients[step], *torch.tensor(factors).T[:, :, None])
        taken = [t + 1 for t in taken]
    for image, (begin, rate) in enumerate(zip(begins, rates, strict=True)):
        alone = values[image].clone().requires_grad_()
        reference = torch.optim.Adam([alone], rate, (0.8, 0.99))
        for gradient in gradients[begin:, image]:
            alone.grad = gradient
            reference.step()
        assert torch.allclose(ours[image], alone, rtol=1e-5, atol=1e-6)


def test_an_image_becomes_the_same_whenever_it_joins(model: Model, images: list[np.ndarray]) -> None:
    """Alone, from the start, in the middle of others, and where the whole is interrupted meanwhile."""
    alone = []
    for image in images:
        work = refinement(model, [image], **STOPPING)
        work.advance(40)
        alone.append(work)

    work = refinement(model, images[:2], **STOPPING)
    ended = {}
    waiting = [2, 3, 4]
    while work.numbers:
        work.advance(8)
        for found in work.take_ended():
            ended[found.number] = found
        if waiting and work.numbers:  # one every eight steps, whether a place is free or not
            assert work.may_join
            _join(work, images[waiting.pop(0)], model)
            state = work.state()
            again = refinement(model, [images[number] for number in work.numbers], **STOPPING)
            again.restore(state)
            again.numbers, again.joined = work.numbers, work.joined
            assert again.steps_taken == work.steps_taken and len(set(work.steps_taken)) > 1
            work = again
    assert sorted(ended) == [0, 1, 2, 3, 4]
    for number, found in ended.items():
        assert found.best.equals(alone[number].best)
        assert found.amortized.equals(alone[number].amortized)
        assert [found.steps_taken] == alone[number].steps_taken
    assert sum(found.best.equals(found.amortized) for found in ended.values()) < 2
    assert len({found.steps_taken for found in ended.values()}) > 1


def test_images_join_at_looks_only(model: Model, images: list[np.ndarray]) -> None:
    """A look takes as long for one image as for all that share their tensors."""
    work = refinement(model, images[:1], steps=20, check_every=4)
    seen = []
    for _ in range(5):
        seen.append(work.may_join)
        work.advance(2)
    assert seen == [True, False, True, False, True]


@ON_DEVICES
def test_a_place_is_taken_over_in_the_same_memory(
    model: Model, images: list[np.ndarray], device: str
) -> None:
    """What a GPU does: nothing has to be recorded again, and the neighbour goes on as if nothing had been."""
    on_device = Model(model._checkpoint, device)
    settings: dict[str, Any] = {**STOPPING, "steps": 12, "check_every": 3, "patience": 0}
    work = joint_refinement(on_device, [images[1], images[3]], **settings)
    undisturbed = joint_refinement(on_device, [images[1], images[3]], **settings)
    _let_stop(work, {(1, 6)})
    for _ in range(6):
        work.advance()
    step, memory = work._steps, work._steps._values.data_ptr()
    work.join(joint_refinement(on_device, [images[4]], **settings))
    assert work._steps is step and step._values.data_ptr() == memory
    assert step.taken == [6, 0] and work.steps_taken == [6, 6, 0] and work._places == [0, 2]
    for _ in range(6):
        work.advance()
    assert work.has_ended == [True, True, False]
    for _ in range(12):
        undisturbed.advance()
    same = 1e-3 if device == "cuda" else 0.0
    assert work.best_loss[0].item() == pytest.approx(undisturbed.best_loss[0].item(), rel=same)
    for _ in range(6):
        work.advance()
    assert work.steps_taken == [12, 6, 12] and work._places == [2]


def test_what_differs_between_images_is_each_ones_own(model: Model, images: list[np.ndarray]) -> None:
    """In tensors of one size from beginning to end, a newcomer takes the same steps to the last bit."""
    settings: dict[str, Any] = {**STOPPING, "steps": 40, "check_every": 5, "patience": 0}
    from_the_start = joint_refinement(model, [images[1], images[4]], **settings)
    work = joint_refinement(model, [images[1], images[3]], **settings)
    _let_stop(work, {(1, 5)})
    for _ in range(5):
        work.advance()
    work.join(joint_refinement(model, [images[4]], **settings))
    for _ in range(10):
        work.advance()
        from_the_start.advance()
    for name, variable in work.variables.items():
        assert torch.equal(variable[1], from_the_start.variables[name][1])
    assert work.best.only([2]).equals(from_the_start.best.only([1]))


@pytest.mark.parametrize("first", [0, 1], ids=["without padding", "padded"])
def test_padded_images_join_those_without_padding_and_more_than_have_left(
    model: Model, images: list[np.ndarray], first: int
) -> None:
    settings: dict[str, Any] = {**STOPPING, "steps": 10, "check_every": 5, "patience": 0}
    work = joint_refinement(model, [images[first]], **settings)
    for _ in range(5):
        work.advance()
    work.join(joint_refinement(model, [images[1 - first], images[2]], **settings))
    assert work._places == [0, 1, 2] and work._steps.taken == [5, 0, 0]
    for _ in range(10):
        work.advance()
    assert work.steps_taken == [10, 10, 10]
    for place, image in enumerate((images[first], images[1 - first], images[2])):
        alone = joint_refinement(model, [image], **settings)
        for _ in range(10):
            alone.advance()
        assert work.best_loss[place].item() == pytest.approx(alone.best_loss.item(), rel=5e-3)


def test_what_is_found_is_told_as_it_is_found_and_its_place_refilled(
    model: Model, images: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first image converges at step 10, the second at 20, the third at 30, and so on."""
    recipe = Sga(lmbda=0.01, **{**STOPPING, "check_every": 5})
    known: list[Convergence] = []

    def reached(self: Convergence, step: int, loss: float) -> bool:
        if self not in known:
            known.append(self)
        return step >= 10 * (1 + known.index(self))

    monkeypatch.setattr(Convergence, "reached", reached)
    waiting, asked = images[2:], []

    def refill(going_on: Any) -> list[np.ndarray]:
        asked.append(list(going_on))
        free = 2 - len(going_on)
        more, waiting[:free] = waiting[:free], []
        return more

    found = list(find_latents(model, images[:2], recipe, refill=refill))
    assert [number for number, _ in found] == [0, 1, 2, 3, 4]
    assert asked == [[1], [2], [2, 3], [3], [3, 4], [4], [4]]
    for number, latents in found:
        assert isinstance(latents, FoundLatents) and latents.steps_taken == min(10 * (1 + number), 40)
        monkeypatch.setattr(Convergence, "reached", lambda self, step, _, s=latents.steps_taken: step >= s)
        (alone,) = encode(model, [images[number]], recipe)
        assert finish(model, images[number], recipe, latents).outcome.data == alone.outcome.data
