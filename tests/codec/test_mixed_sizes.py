"""Images of several sizes share tensors, as on a GPU, and become what they become alone.

Up to floating-point differences: kernels for other shapes may add up in another order.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.operations import operations
from ncbatch.codec.decode import decode_latents
from ncbatch.codec.encode import bitstream, write
from ncbatch.codec.methods import LEARNED, Sga
from ncbatch.codec.model import hyperprior
from ncbatch.codec.model.extents import Extents, fitted
from ncbatch.codec.model.hyperprior import Latents, Model, to_tensor
from ncbatch.codec.refinement.batch import Refinement
from ncbatch.codec.refinement.canvas import canvas, padded, shared
from ncbatch.codec.refinement.loop import JointRefinement, Target
from ncbatch.codec.refinement.noise import BatchNoise, ImageNoise
from tests.codec.test_refinement import ON_DEVICES, _let_stop

CPU = torch.device("cpu")
SIZES = ((64, 64), (100, 180), (192, 128), (150, 60))
"""Some without padding."""
SAME = 1e-4
"""Of a loss, relative: as much as a batch of one shape differs from an image alone in shared tensors."""


@pytest.fixture(scope="module", autouse=True)
def _float32_on_cpus() -> Iterator[None]:
    """Kernels for other shapes and numbers of threads add up in another order, which shows in bfloat16."""
    on_others = hyperprior.fast_dtype
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            hyperprior,
            "fast_dtype",
            lambda device: torch.float32 if device.type == "cpu" else on_others(device),
        )
        yield


@pytest.fixture(scope="module")
def model(model: Model, _float32_on_cpus: None) -> Model:
    """One that no other tests see."""
    return Model(model._checkpoint)


@pytest.fixture(scope="module")
def images(photograph: np.ndarray) -> list[np.ndarray]:
    return [photograph[20 * n : 20 * n + h, 50 * n : 50 * n + w] for n, (h, w) in enumerate(SIZES)]


def _joint(
    model: Model, images: list[np.ndarray], whole: tuple[int, int] | None = None, **settings: Any
) -> JointRefinement:
    targets = [Target(p.shape[0], p.shape[1], ImageNoise(0, p.tobytes())) for p in images]
    method = settings.pop("method", "sga")
    recipe: Any = LEARNED[method].model_validate({"lmbda": 0.01, "steps": 12, "check_every": 4, **settings})
    return JointRefinement(model, [to_tensor(p, model.device)[0] for p in images], targets, recipe, whole)


def _advance(work: JointRefinement, steps: int = 12) -> JointRefinement:
    for _ in range(steps):
        work.advance()
    return work


def test_few_canvases_hold_all_sizes() -> None:
    """Every image fits, and one of twice a canvas's area never takes a smaller one's place."""
    shapes = {padded(h, w) for h in range(1, 1500, 37) for w in range(1, 1500, 41)}
    for shape in shapes:
        height, width = canvas(shape)
        assert height >= shape[0] and width >= shape[1] and height % 64 == width % 64 == 0
        assert canvas((height, width)) == (height, width)
    assert len({canvas(shape) for shape in shapes if max(shape) <= 896}) == 25
    assert canvas((960, 64)) == (960, 64), "tiles of a large image need no company"
    assert shared([(512, 768)] * 3) == (512, 768), "a batch of one shape takes no more than that"
    assert shared([(512, 768), (576, 704)]) == (576, 768)


@ON_DEVICES
@pytest.mark.parametrize("method", ["sga", "map"])
def test_an_image_becomes_the_same_alone_and_among_other_sizes(
    model: Model, images: list[np.ndarray], device: str, method: str
) -> None:
    """Its amortized latents, its variables step by step, its looks, and the best that was found."""
    on_device = Model(model._checkpoint, device)
    same = SAME if device == "cpu" else 5e-3
    together = _joint(on_device, images, method=method)
    alone = [_joint(on_device, [image], method=method) for image in images]
    assert together.whole == (192, 192) and [work.whole for work in alone] == [
        padded(*image.shape[:2]) for image in images
    ]
    for n, work in enumerate(alone):
        assert together.result(n)[0].equals(work.result(0)[0]), f"amortized, image {n}"
    for steps in (1, 11):
        _advance(together, steps)
        for n, work in enumerate(alone):
            _advance(work, steps)
            for name, variable in work.variables.items():
                own = together.variables[name][n, :, : variable.shape[2], : variable.shape[3]]
                difference = (own - variable[0]).abs()
                # Adam turns a gradient that is nearly zero into a step of either direction.
                assert (difference > 1e-3).float().mean() < (2e-3 if steps == 1 else 0.05), f"image {n}"
    for n, work in enumerate(alone):
        assert together.best_loss[n].item() == pytest.approx(work.best_loss.item(), rel=same), f"image {n}"
        for ours, its in zip(together.looks()[n : n + 1], work.looks(), strict=True):
            assert ours.rd_loss == pytest.approx(its.rd_loss, rel=same)
            assert ours.information_bpp == pytest.approx(its.information_bpp, rel=2 * same)
            assert ours.mse == pytest.approx(its.mse, rel=2 * same)


def test_what_was_found_among_other_sizes_is_coded_exactly(model: Model, images: list[np.ndarray]) -> None:
    """Coding takes each image's own latents through the exact h_s; the loss is what the loop thought."""
    together = _advance(_joint(model, images))
    for n, image in enumerate(images):
        _, best = together.result(n)
        height, width = image.shape[:2]
        data = write(model, best, "sga", height, width)
        decoded = decode_latents(model, bitstream.parse(data, max_pixels=height * width))
        assert decoded.equals(best)
        information = sum(bits.item() for bits in model.information(best))
        assert together._best_bits[n].item() == pytest.approx(information, rel=1e-6)
        assert len(data) * 8 == pytest.approx(information, rel=0.01, abs=400)


def test_exact_coding_parameters_are_the_same_to_the_last_bit(model: Model) -> None:
    """mu and sigma of every image, whatever lies beside it."""
    random = torch.Generator().manual_seed(0)
    sizes = ((1, 3), (2, 2), (3, 1))
    own = [torch.randint(-9, 10, (1, model.info.n, *size), generator=random).int() for size in sizes]
    anything = torch.randint(-9, 10, (3, model.info.n, 3, 3), generator=random).int()
    for plane, z in zip(anything, own, strict=True):
        plane[:, : z.shape[2], : z.shape[3]] = z[0]
    extents = Extents.of(sizes, (3, 3), CPU)
    for found, name in zip(model.coding_parameters(anything, extents), ("mu", "sigma"), strict=True):
        for n, z in enumerate(own):
            expected = model.coding_parameters(z)[name == "sigma"]
            assert torch.equal(extents.own(n, found[n]), expected[0]), f"{name} of image {n}"


def test_synthesis_beside_other_sizes_is_the_decoders(model: Model) -> None:
    """In float32, up to the order of sums, whatever lies beyond the border; without masks it is not."""
    random = torch.Generator().manual_seed(1)
    y = torch.randn(2, model.info.m, 8, 8, generator=random)
    extents = Extents.of(((1, 2), (2, 1)), (2, 2), CPU)
    synthesis = model._transform("g_s", torch.float32)
    together, without = synthesis(y, extents), synthesis(y)
    for n in range(2):
        alone = synthesis(extents.own(n, y[n])[None])[0]
        height, width = alone.shape[1:]
        assert torch.allclose(together[n, :, :height, :width], alone, atol=1e-5)
        assert not torch.allclose(without[n, :, :height, :width], alone, atol=1e-2)


def test_noise_is_that_of_the_images_own_shape() -> None:
    shapes = {"y": torch.Size((3, 8, 12)), "z": torch.Size((2, 2, 3))}
    images = [ImageNoise(0, bytes([n])) for n in range(2)]
    extents = Extents.of(((1, 3), (2, 2)), (2, 3), CPU)
    noise = BatchNoise(images, shapes, CPU, extents)
    drawn = noise.by_name(noise.draw(noise.keys([5, 7])))
    for n, step in enumerate((5, 7)):
        rows, columns = extents.sizes[n]
        own = {
            name: torch.Size((shape[0], rows * shape[1] // 2, columns * shape[2] // 3))
            for name, shape in shapes.items()
        }
        alone = BatchNoise(images[n : n + 1], own, CPU)
        expected = alone.by_name(alone.draw(alone.keys([step])))
        for name, values in expected.items():
            assert torch.equal(extents.own(n, drawn[name][n]), values[0])


@ON_DEVICES
def test_an_image_of_another_size_takes_over_a_place(
    model: Model, images: list[np.ndarray], device: str
) -> None:
    """In a batch of mixed sizes in the same memory; in one of a single shape the step gets its masks then."""
    on_device = Model(model._checkpoint, device)
    same = SAME if device == "cpu" else 5e-3
    for first in ([images[1], images[2]], [images[2], images[2]]):
        work = _joint(on_device, first)
        whole = work.whole
        mixed = work._steps.originals.extents is not None
        _let_stop(work, {(1, 4)})
        _advance(work, 4)
        step, memory = work._steps, work._steps._values.data_ptr()
        newcomer = images[0]
        work.join(_joint(on_device, [newcomer], whole))
        assert (work._steps is step and step._values.data_ptr() == memory) == mixed
        assert work._places == [0, 2] and work._steps.originals.extents is not None
        _advance(work)
        assert work.steps_taken == [12, 4, 12]
        for index, image in ((0, first[0]), (2, newcomer)):
            alone = _advance(_joint(on_device, [image]))
            assert work.best_loss[index].item() == pytest.approx(alone.best_loss.item(), rel=same)


def test_an_image_that_does_not_fit_is_refused(model: Model, images: list[np.ndarray]) -> None:
    with pytest.raises(ValueError, match="larger than the tensors"):
        _joint(model, [images[2]], (128, 128))


def test_a_batch_of_mixed_sizes_goes_on_on_another_device(model: Model, images: list[np.ndarray]) -> None:
    """From the state of shared tensors to tensors of each image's own, as a CPU has them, and back."""
    whole = _joint(model, images)
    _advance(whole, 4)
    targets = [course.target for course in whole._courses]
    recipe = Sga(lmbda=0.01, steps=12, check_every=4)
    pixels = [to_tensor(image, CPU)[0] for image in images]
    apart = Refinement(model, pixels, targets, recipe)
    apart.restore(whole.state())
    assert [part.whole for part in apart._parts] == [padded(*image.shape[:2]) for image in images]
    back = _joint(model, images)
    back.restore(apart.state(), slice(0, len(images)))
    _advance(back, 8)
    _advance(whole, 8)
    apart.advance(8)
    for n, found in enumerate(apart.take_ended()):
        assert found.steps_taken == 12
        assert back.result(n)[1].equals(whole.result(n)[1])
        assert _share_that_differs(found.best, whole.result(n)[1]) < 0.02


def _share_that_differs(ours: Latents, theirs: Latents) -> float:
    return (ours.y != theirs.y).float().mean().item()


def test_masks_cost_few_operations_and_none_where_all_images_are_of_one_shape(
    model: Model, images: list[np.ndarray]
) -> None:
    """Whatever the number of images."""
    counted = [
        operations(_joint(model, batch)).total()
        for batch in ([images[1]], [images[1]] * 3, [images[0], images[1]], images)
    ]
    assert counted[0] == counted[1] <= 200
    assert counted[2] == counted[3] <= counted[0] + 20


def test_what_is_fitted_is_cropped_or_surrounded_by_zeros() -> None:
    x = torch.arange(12.0).view(1, 1, 3, 4)
    assert torch.equal(fitted(x, 2, 2), x[..., :2, :2])
    assert torch.equal(fitted(fitted(x, 4, 6), 3, 4), x) and fitted(x, 4, 6).sum() == x.sum()
