import numpy as np
import pytest
import torch

from ncbatch.codec.refinement import noise
from ncbatch.codec.refinement.noise import BatchNoise, ImageNoise

COUNTER = torch.arange(100_000, dtype=torch.int32)


def test_numbers_are_uniform_and_open() -> None:
    uniform = ImageNoise(0, b"a").uniform("y", 0, COUNTER).numpy()
    assert uniform.min() > 0 and uniform.max() < 1
    counts = np.histogram(uniform, bins=50, range=(0, 1))[0]
    assert ((counts - 2000) ** 2 / 2000).sum() < 90  # chi-squared, 49 degrees of freedom


def test_every_ingredient_gives_other_numbers_and_none_is_correlated() -> None:
    base = ImageNoise(0, b"a").uniform("y", 0, COUNTER)
    others = [
        ImageNoise(1, b"a").uniform("y", 0, COUNTER),
        ImageNoise(0, b"b").uniform("y", 0, COUNTER),
        ImageNoise(0, b"a").uniform("z", 0, COUNTER),
        ImageNoise(0, b"a").uniform("y", 1, COUNTER),
        base.roll(1),
        base.roll(48),
    ]
    for other in others:
        correlation = np.corrcoef(base.numpy(), other.numpy())[0, 1]
        assert abs(correlation) < 0.02


def test_numbers_are_fixed_for_good() -> None:
    # Stored variants name a seed: the numbers may never change between versions.
    uniform = ImageNoise(7, b"picture").uniform("z", 12, torch.arange(3, dtype=torch.int32))
    assert uniform.tolist() == [0.553795337677002, 0.621785044670105, 0.6199048757553101]


def test_the_largest_number_is_below_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "_mix", lambda x: torch.full_like(x, -1))  # all bits set
    largest = noise.ImageNoise(0, b"picture").uniform("y", 0, torch.zeros(1, dtype=torch.int32))
    assert 0.999999 < largest.item() < 1
    assert bool(torch.log1p(-largest).isfinite())


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_batch_draws_what_each_of_its_images_draws(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    shapes = {"y": torch.Size((5, 4, 3)), "z": torch.Size((2, 1, 1))}
    images = [ImageNoise(seed, picture) for seed, picture in ((0, b"a"), (0, b"b"), (7, b"a"))]
    noise = BatchNoise(images, shapes, torch.device(device))
    steps: list[list[int | str]] = [[0, 0, 0], [11, 2, 300], ["look"] * 3]  # each image may be at its own
    for at in steps:
        drawn = noise.by_name(noise.draw(noise.keys(at).to(device)))
        for name, shape in shapes.items():
            counter = torch.arange(shape.numel(), dtype=torch.int32).view(shape)
            alone = torch.stack([i.uniform(name, step, counter) for i, step in zip(images, at, strict=True)])
            assert torch.equal(drawn[name].cpu(), alone)
            assert drawn[name][0].permute(1, 2, 0).is_contiguous()
