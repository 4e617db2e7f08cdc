import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ncbatch.codec.encode import encode
from ncbatch.codec.errors import DivergedError
from ncbatch.codec.methods import LEARNED, Map, Sga
from ncbatch.codec.model import hyperprior as model_module
from ncbatch.codec.model.hyperprior import Latents, Model, to_tensor
from ncbatch.codec.model.rates import SCALE_BOUND, gaussian_bits, lower_bound
from ncbatch.codec.model.transforms import SUBPIXELS, Transform
from ncbatch.codec.refinement.batch import Refinement
from ncbatch.codec.refinement.convergence import Convergence
from ncbatch.codec.refinement.loop import JointRefinement, Target
from ncbatch.codec.refinement.noise import ImageNoise
from ncbatch.codec.refinement.originals import Originals


def refinement(
    model: Model,
    images: list[np.ndarray],
    steps: int = 10,
    kind: type[Any] = Refinement,
    method: str = "sga",
    **settings: Any,
) -> Any:
    batch = torch.cat([to_tensor(p, model.device) for p in images])
    targets = [Target(p.shape[0], p.shape[1], ImageNoise(0, p.tobytes())) for p in images]
    recipe = LEARNED[method].model_validate({"lmbda": 0.01, "steps": steps, **settings})
    return kind(model, batch, targets, recipe)


def joint_refinement(model: Model, images: list[np.ndarray], **settings: Any) -> JointRefinement:
    return refinement(model, images, kind=JointRefinement, **settings)


@pytest.fixture(scope="module")
def crops(photograph: np.ndarray) -> list[np.ndarray]:
    """Four images of one padded shape, 128 x 192, with different true sizes."""
    return [
        photograph[:128, :192],
        photograph[100:228, 200:392],
        photograph[150:250, 100:280],
        photograph[170:297, 30:217],
    ]


def test_the_same_alone_and_in_a_batch_of_four(model: Model, crops: list[np.ndarray]) -> None:
    together = refinement(model, crops)
    together.advance(10)
    for i, crop in enumerate(crops):
        alone = refinement(model, [crop])
        alone.advance(10)
        assert together.best[i].equals(alone.best), f"image {i}"
        assert torch.equal(together.variables["y"][i : i + 1], alone.variables["y"])


@pytest.mark.parametrize(("flattered", "learning_rate"), [(1, 0.1), (2, 0.15)])
def test_the_last_choice_is_by_the_decoders_synthesis(
    model: Model,
    crops: list[np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
    flattered: int,
    learning_rate: float,
) -> None:
    """The loop's own may flatter an iterate, here by half of its distortion: that of step 2, or the last."""
    section = model._checkpoint.section("g_s")
    in_bfloat16 = Transform(section, "g_s", torch.bfloat16, model.device, subpixels=SUBPIXELS)
    monkeypatch.setattr(model, "fast_synthesis", in_bfloat16)  # in float32 there is nothing to choose again

    def work() -> JointRefinement:
        settings = {"method": "map", "steps": 4, "check_every": 2, "learning_rate": learning_rate}
        return joint_refinement(model, crops[1:2], **settings)

    def rounded(work: JointRefinement) -> Latents:
        work.advance()
        work.advance()
        y, z = (work.variables[name].detach().contiguous() for name in ("y", "z"))
        return model.round(y, z)

    honest = work()
    looked = [honest.amortized, rounded(honest), rounded(honest)]
    originals = honest._steps.originals

    def loss(latents: Latents) -> float:
        error = originals.precise_squared_error(model, model.y_hat(latents))
        return float(sum(model.information(latents)) + error * 0.01 * 255**2 / 3)

    def flattering(self: Originals, model: Model, y_hat: torch.Tensor) -> torch.Tensor:
        error = self.precise_squared_error(model, y_hat)
        return error / 2 if torch.equal(y_hat, model.y_hat(looked[flattered])) else error

    losses = [loss(latents) for latents in looked]
    best = 3 - flattered
    assert losses[best] == min(losses)
    monkeypatch.setattr(Originals, "squared_error", flattering)
    flattered_work = work()
    for _ in range(4):
        flattered_work.advance()
    assert flattered_work.best.equals(looked[best])
    assert flattered_work.best_loss.item() == pytest.approx(losses[best], rel=1e-6)


BATCH_AND_ALONE = """
import sys
import numpy as np
import torch
from ncbatch.models import zoo
from ncbatch.codec.model.hyperprior import Model
from tests.codec.test_refinement import refinement

crops = [np.load(name) for name in sys.argv[2:]]
torch.set_num_threads(int(sys.argv[1]))
model = Model(zoo.load_builtin("base-0.010"))
together = refinement(model, crops, steps=3, check_every=3)
together.advance(3)
for i, crop in enumerate(crops):
    alone = refinement(model, [crop], steps=3, check_every=3)
    alone.advance(3)
    assert together.best[i].equals(alone.best), i
    assert torch.equal(together.variables["y"][i : i + 1], alone.variables["y"]), i
"""


@pytest.mark.parametrize(
    ("isa", "capability", "threads"),
    [
        ("ALL", "avx2", 1),
        ("AVX2", "avx2", 1),
        ("AVX2", "avx2", 5),
        ("AVX2", "default", 1),
        ("SSE41", "default", 2),
    ],
)
def test_a_batch_changes_nothing_whatever_the_instruction_set(
    crops: list[np.ndarray], tmp_path: Path, isa: str, capability: str, threads: int
) -> None:
    """Kernels are chosen by instruction set, threads and tensor sizes; each choice rounds in its own way."""
    names = []
    for i, crop in enumerate(crops):
        names.append(str(tmp_path / f"{i}.npy"))
        np.save(names[-1], crop)
    subprocess.run(
        [sys.executable, "-c", BATCH_AND_ALONE, str(threads), *names],
        env=os.environ | {"ONEDNN_MAX_CPU_ISA": isa, "ATEN_CPU_CAPABILITY": capability},
        cwd=Path(__file__).parents[2], check=True,
    )  # fmt: skip


def test_encoding_is_the_same_alone_and_in_a_batch_of_four(model: Model, crops: list[np.ndarray]) -> None:
    recipe = Sga(lmbda=0.01, steps=30)
    together = encode(model, crops, recipe)
    for crop, encoded in zip(crops, together, strict=True):
        assert encode(model, [crop], recipe)[0].outcome.data == encoded.outcome.data


def test_going_on_from_a_saved_state_changes_nothing(model: Model, crops: list[np.ndarray]) -> None:
    whole = refinement(model, crops[:2], steps=24, check_every=5)
    whole.advance(24)
    first = refinement(model, crops[:2], steps=24, check_every=5)
    first.advance(13)
    second = refinement(model, crops[:2], steps=24, check_every=5)
    second.restore(first.state())
    assert second.step == 13
    second.advance(100)
    assert (
        second.done
        and torch.equal(second.variables["y"], whole.variables["y"])
        and torch.equal(second.variables["z"], whole.variables["z"])
    )
    assert second.best.equals(whole.best)


def test_a_state_from_before_the_first_step_can_be_restored(model: Model, crops: list[np.ndarray]) -> None:
    first = refinement(model, crops[:1])
    again = refinement(model, crops[:1])
    again.restore(first.state())
    first.advance(10)
    again.advance(10)
    assert torch.equal(first.variables["y"], again.variables["y"])


def test_loss_of_rounded_latents_falls(model: Model, photograph: np.ndarray) -> None:
    image = photograph[:128, :192]
    work = refinement(model, [image], steps=100, check_every=20)
    before = work.best_loss.item()
    work.advance(100)
    assert work.best_loss.item() < 0.985 * before
    assert not work.best.equals(work.amortized)


@pytest.mark.parametrize(
    ("fields", "saved"),
    [
        ({"method": "map"}, 0.005),
        ({"method": "ste", "learning_rate": 1e-3, "steps": 200}, 0.0005),  # the weakest, in the paper too
        ({"method": "uniform-noise"}, 0.005),
        ({"method": "deterministic-annealing"}, 0.005),
        *(({"method": "sga", "rounding": rounding}, 0.005) for rounding in ("linear", "cosine", "ssl")),
    ],
)
def test_every_method_improves_on_the_amortized_latents(
    model: Model, photograph: np.ndarray, fields: dict[str, Any], saved: float
) -> None:
    image = photograph[:128, :192]
    work = refinement(model, [image], **{"steps": 60, "check_every": 20, **fields})
    before = work.best_loss.item()
    while not work.done:
        work.advance(20)
    assert work.best_loss.item() < (1 - saved) * before


def test_gradient_of_the_loss_is_the_finite_difference(
    model: Model, photograph: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole loss, tiles, padding and all, in float32 with the noise held fixed."""
    monkeypatch.setattr(model_module, "fast_dtype", lambda device: torch.float32)
    work = joint_refinement(model_module.Model(model._checkpoint), [photograph[:60, :100]])
    direction = {name: torch.randn(v.shape, generator=torch.Generator().manual_seed(5))
                 for name, v in (("y", work.variables["y"]), ("z", work.variables["z"]))}  # fmt: skip
    # Away from whole numbers the relaxation is smooth, but steep: a small step in float32.
    gradient, loss = loss_and_gradient(work)
    slope = sum((gradient[n] * d).sum().item() for n, d in direction.items())
    step = 2e-4
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            work.variables["y"].add_(direction["y"], alpha=sign * step)
            work.variables["z"].add_(direction["z"], alpha=sign * step)
        values.append(loss_and_gradient(work)[1])
        with torch.no_grad():
            work.variables["y"].sub_(direction["y"], alpha=sign * step)
            work.variables["z"].sub_(direction["z"], alpha=sign * step)
    assert slope == pytest.approx((values[0] - values[1]) / (2 * step), rel=0.03)
    assert loss > 0


def loss_and_gradient(work: JointRefinement) -> tuple[dict[str, torch.Tensor], float]:
    """What a step descends: its value by the formula, its gradient by the loop's own parts."""
    step = work._steps
    step.prepare()
    relaxed = step.relaxed()
    leaf = relaxed.y.detach().requires_grad_()
    for tile in step.originals.tiles:
        step.backward_distortion(leaf, tile)
    gradients = torch.autograd.grad(
        [*relaxed.roots, relaxed.y],
        [step.leaves["y"], step.leaves["z"]],
        grad_outputs=[*relaxed.gradients, leaf.grad],
    )
    with torch.no_grad():
        bits = gaussian_bits(relaxed.centred, lower_bound(relaxed.scales, SCALE_BOUND)).sum()
        bits += work._model.prior.bits(relaxed.z).sum()
        difference = work._model.fast_synthesis(relaxed.y) - step.originals.subpixels
        distortion = 0.01 * 255**2 * torch.pixel_shuffle(difference, 2)[:, :, :60, :100].square().sum() / 3
    return dict(zip(("y", "z"), gradients, strict=True)), bits.item() + distortion.item()


def test_padding_does_not_count(model: Model, photograph: np.ndarray) -> None:
    """What lies in the padding of the batch tensor does not change the distortion's gradient."""
    work = joint_refinement(model, [photograph[:100, :150]])
    step = work._steps
    assert step.originals.mask is not None

    def gradient() -> torch.Tensor:
        y = work.variables["y"].detach().requires_grad_()
        for tile in step.originals.tiles:
            step.backward_distortion(y, tile)
        assert y.grad is not None and bool(y.grad.any())
        return y.grad

    before = gradient()
    step.originals.subpixels[:, :, 50:, :] = 5.0
    step.originals.subpixels[:, :, :, 75:] = -5.0
    assert torch.equal(gradient(), before)


def test_divergence_ends_an_image_and_not_its_neighbours(model: Model, crops: list[np.ndarray]) -> None:
    work = joint_refinement(model, crops[:3], steps=6, check_every=2)
    undisturbed = joint_refinement(model, crops[:3], steps=6, check_every=2)
    work.variables["y"].data[1, 0, 0, 0] = torch.nan
    for _ in range(6):
        work.advance()
        undisturbed.advance()
    assert work.errors[0] is work.errors[2] is None
    assert "diverged by step 2" in str(work.errors[1])
    assert work.has_ended == [True] * 3 and work.steps_taken == [6, 2, 6]
    for image in (0, 2):
        assert work.best_loss[image].item() == pytest.approx(undisturbed.best_loss[image].item(), rel=1e-3)


def test_an_image_that_diverges_is_an_error(model: Model, crops: list[np.ndarray]) -> None:
    with pytest.raises(DivergedError, match="step"):
        encode(model, [crops[0]], Map(lmbda=1e38, steps=20, check_every=2, learning_rate=1.0))


STOPPING: dict[str, Any] = {
    "steps": 40, "check_every": 4, "patience": 1, "learning_rate": 0.05, "decay": "cosine",
    "rounding": "linear", "noise": 0.45,
}  # fmt: skip


@pytest.fixture(scope="module")
def unlike(crops: list[np.ndarray]) -> list[np.ndarray]:
    """Of one padded shape and mixed sizes; the last, a plain area, still gains when the others do not."""
    return [*crops[:3], np.full((127, 187, 3), 90, np.uint8)]


def test_converged_images_stop_each_at_its_own_step_whatever_the_others_do(
    model: Model, unlike: list[np.ndarray]
) -> None:
    together = refinement(model, unlike, **STOPPING)
    together.advance(40)
    assert together.done
    for i, image in enumerate(unlike):
        alone = refinement(model, [image], **STOPPING)
        alone.advance(40)
        assert alone.steps_taken == [together.steps_taken[i]]
        assert together.best[i].equals(alone.best) and not alone.best.equals(alone.amortized)
    # From 70 % of the steps on; the first of these looks is what the others are compared with.
    assert min(together.steps_taken) >= 28 + 4
    assert len(set(together.steps_taken)) > 1


@pytest.mark.parametrize("at", [20, 33])
def test_going_on_changes_nothing_where_images_stop(model: Model, unlike: list[np.ndarray], at: int) -> None:
    whole = refinement(model, unlike, **STOPPING)
    whole.advance(40)
    first = refinement(model, unlike, **STOPPING)
    first.advance(at)
    second = refinement(model, unlike, **STOPPING)
    second.restore(first.state())
    assert second.step == first.step and second.has_ended == first.has_ended
    assert second.looks() == first.looks()
    second.advance(100)
    assert second.done and second.steps_taken == whole.steps_taken
    assert second.best.equals(whole.best) and torch.equal(second.best_loss, whole.best_loss)


def test_encoding_with_stopping_is_the_same_alone_and_in_a_batch(
    model: Model, unlike: list[np.ndarray]
) -> None:
    recipe = Sga(lmbda=0.01, **STOPPING)
    together = encode(model, unlike, recipe)
    for image, encoded in zip(unlike, together, strict=True):
        (alone,) = encode(model, [image], recipe)
        assert alone.outcome.data == encoded.outcome.data
        assert alone.steps_taken == encoded.steps_taken
    assert min(encoded.steps_taken or 0 for encoded in together) < 40


def _let_stop(work: JointRefinement, stops: set[tuple[int, int]]) -> None:
    """Images converge at these steps, as (image, step)."""
    for image, course in enumerate(work._courses):
        rule: Any = course.convergence
        rule.reached = lambda step, loss, image=image: (image, step) in stops


ON_DEVICES = pytest.mark.parametrize(
    "device",
    ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))],
)


@ON_DEVICES
def test_images_that_share_their_tensors_leave_them(
    model: Model, crops: list[np.ndarray], device: str
) -> None:
    """What a GPU does: the tensors shrink, the others go on as they were, and results stay."""
    on_device = Model(model._checkpoint, device)
    stops = {(0, 9), (2, 9), (3, 12)}
    work = joint_refinement(on_device, crops, steps=15, check_every=3)
    _let_stop(work, stops)
    kept = {}
    while not all(work.has_ended):
        work.advance()
        if work.step == 9:
            kept = {i: (work.best[i], work.best_loss[i].item()) for i in (0, 2)}
            assert work._active == [1, 3] and len(work.variables["y"]) == 4, "until the next step"
        if work.step == 10:
            assert len(work.variables["y"]) == len(work._steps.originals.subpixels) == 2
    assert work.steps_taken == [9, 15, 9, 12] and work._places == [1]
    for i, (latents, loss) in kept.items():
        assert work.best[i].equals(latents) and work.best_loss[i].item() == loss
    assert len(work.looks()) == 4
    # Restored, it is as it was: the one that goes on, and what the others came to.
    again = joint_refinement(on_device, crops, steps=15, check_every=3)
    again.restore(work.state(), slice(0, 4))
    assert again.has_ended == work.has_ended and again.steps_taken == work.steps_taken
    for name, variable in work.variables.items():
        assert torch.equal(again.variables[name][1], variable[0])
    assert torch.equal(again.best_loss, work.best_loss)


def test_the_rule_of_convergence() -> None:
    recipe = Sga(lmbda=0.01, steps=100, check_every=10, patience=2)
    rule = Convergence(recipe, 512 * 768)
    looks = [
        (60, 90.0),
        (70, 90.0),
        (80, 89.0),
        (90, 88.9),
    ]  # the first two do not count: too early, the start
    assert not any(rule.reached(step, loss) for step, loss in looks)
    again = Convergence(recipe, 512 * 768)
    again.reference, again.without_gain = rule.reference, rule.without_gain
    assert again.reached(95, 88.8), "two in a row gained less than 0.3 % of what the last gain left"
    assert not again.reached(100, 88.8), "the last step ends it anyway"
    never = Convergence(recipe.model_copy(update={"patience": 0}), 64 * 64)
    assert not any(never.reached(step, 1.0) for step in range(100))


@pytest.mark.parametrize(
    ("pixels", "looks"), [(512 * 768, 3), (128 * 192, 3), (64 * 128, 6), (64 * 64, 8), (16 * 16, 30)]
)
def test_small_images_are_looked_at_more_often(pixels: int, looks: int) -> None:
    """By the root of how many fewer pixels they have: as the noise of their loss grows."""
    rule = Convergence(Sga(lmbda=0.01, steps=1000, check_every=1, patience=3), pixels)
    # The first look is what the others are compared with.
    assert [rule.reached(step, 1.0) for step in range(700, 701 + looks)] == [False] * looks + [True]
