"""What calibration makes of measurements, on a clock that these tests play."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

import pytest

from ncbatch.codec import codecs
from ncbatch.codec.codecs import LearnedCoder
from ncbatch.codec.encode import FoundLatents
from ncbatch.codec.methods import Sga
from ncbatch.codec.refinement.canvas import canvas
from ncbatch.worker import calibration
from ncbatch.worker.batching import FixedBatches, GrowingBatches
from ncbatch.worker.bounds import Bounds
from ncbatch.worker.calibration import costs_per_pixel, seconds_per_pixel
from tests.workbench import MODEL, sga

PIXELS = 512 * 512
BOUNDS = Bounds(fetchers=1, ahead=1, finishers=4, behind=1)


@dataclass
class Device:
    """Takes `step` seconds for a step of up to `full` images, `rest` for all else, and `finish` to finish."""

    step: float
    rest: float
    finish: float = 0.0
    full: int = 1
    memory: int = 1 << 30
    disturbed: Iterator[float] = field(default_factory=lambda: cycle([0.0]))
    now: float = 0.0
    steps: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    def find(self, model: Any, images: Any, recipe: Sga, **_: Any) -> Iterator[tuple[int, FoundLatents]]:
        assert recipe.patience == 0, "all steps are taken"
        if len(images) > self.memory:
            raise MemoryError("no")
        self.steps.append(recipe.steps)
        self.sizes.append(len(images))
        self.now += self.rest + recipe.steps * self.step * max(len(images) / self.full, 1)
        self.now += next(self.disturbed)
        latents: Any = None
        for number in range(len(images)):
            yield number, FoundLatents(latents, latents, 0.0, recipe.steps)

    def finished(self, *_: Any) -> None:
        self.now += self.finish


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[[Device], Device]:
    def put(device: Device) -> Device:
        monkeypatch.setattr(codecs, "find_latents", device.find)
        monkeypatch.setattr(codecs, "finish", device.finished)
        monkeypatch.setattr(calibration.time, "monotonic", lambda: device.now)
        return device

    return put


FAST = Sga(lmbda=0.01, **Sga.preset("fast"))


def test_a_fast_device_takes_hundreds_of_steps(install: Any) -> None:
    device = install(Device(step=0.0008, rest=0.3))
    costs = costs_per_pixel(LearnedCoder(MODEL, FAST), FixedBatches(1), BOUNDS)
    assert costs.repeated["steps"] * PIXELS == pytest.approx(0.0008)
    assert costs.base * PIXELS == pytest.approx(0.3008)
    assert max(device.steps) > 200


def test_a_slow_one_takes_few(install: Any) -> None:
    device = install(Device(step=0.1, rest=0.5))
    costs = costs_per_pixel(LearnedCoder(MODEL, FAST), FixedBatches(1), BOUNDS)
    assert costs.repeated["steps"] * PIXELS == pytest.approx(0.1)
    assert max(device.steps) == 9


@pytest.mark.parametrize("late", [0.05, 5.0])
def test_one_measurement_in_four_that_is_disturbed_does_not_count(install: Any, late: float) -> None:
    install(Device(step=0.0008, rest=0.3, disturbed=cycle([0.0, late, 0.0, 0.0])))
    seconds = seconds_per_pixel(LearnedCoder(MODEL, sga(1000)), FixedBatches(1), BOUNDS)
    assert seconds * PIXELS == pytest.approx(0.3008 + 0.8, rel=0.1)


def test_a_step_is_never_said_to_take_nothing(install: Any) -> None:
    """Where measurements jitter more than all the steps take."""
    install(Device(step=1e-7, rest=0.1, disturbed=cycle([0.2, 0.0, 0.1, 0.15, 0.0])))
    costs = costs_per_pixel(LearnedCoder(MODEL, FAST), FixedBatches(1), BOUNDS)
    assert 1e-7 <= costs.repeated["steps"] * PIXELS < 1e-3


def test_it_measures_the_batch_that_will_be_used_and_finishing_beside_it(install: Any) -> None:
    device = install(Device(step=0.01, rest=0.0, finish=0.4, full=8))
    batching = GrowingBatches()
    costs = costs_per_pixel(LearnedCoder(MODEL, sga(1000)), batching, BOUNDS)
    assert device.sizes[:6] == [1, 2, 4, 8, 16, 16] and set(device.sizes[6:]) == {8}
    assert costs.repeated["steps"] * PIXELS == pytest.approx(0.01 / 8)
    assert costs.base * PIXELS == pytest.approx(0.01 / 8 + 0.4 / 4), "four threads finish"
    known = canvas((512, 512))
    assert batching.settled(known) and batching.size(known) == 8, "the worker need not try again"


def test_growth_ends_where_memory_does(install: Any) -> None:
    device = install(Device(step=0.01, rest=0.0, full=64, memory=5))
    costs = costs_per_pixel(LearnedCoder(MODEL, sga(1000)), GrowingBatches(), BOUNDS)
    assert max(device.sizes) == 4
    assert costs.repeated["steps"] * PIXELS == pytest.approx(0.01 / 4)


def test_without_memory_for_one_image_there_is_nothing_to_measure(install: Any) -> None:
    install(Device(step=0.01, rest=0.0, memory=0))
    with pytest.raises(MemoryError):
        costs_per_pixel(LearnedCoder(MODEL, sga(1000)), GrowingBatches(), BOUNDS)


def test_for_real() -> None:
    costs = costs_per_pixel(LearnedCoder(MODEL, sga(100)), FixedBatches(1), BOUNDS)
    assert costs.base > 0 and costs.repeated["steps"] > 0
