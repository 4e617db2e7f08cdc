"""How many images go together: measured by a clock that these tests play, against memory that they play."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import torch

from ncbatch.codec.methods import BitsBackBbvi
from ncbatch.plan.units import PlannedImage
from ncbatch.worker import batches as batches_module
from ncbatch.worker import waiting
from ncbatch.worker.batches import Batches, Refill
from ncbatch.worker.batching import Batching, FixedBatches, GrowingBatches, Shape
from ncbatch.worker.fetch import FetchedImage
from ncbatch.worker.options import WorkerOptions
from ncbatch.worker.waiting import by_shape
from ncbatch.worker.workspace import Workspace
from tests.workbench import Workbench, make_variant, sga

CPU = torch.device("cpu")
KODAK, SMALL, LARGE = (512, 768), (256, 256), (2048, 3072)


class Gpu:
    """Takes a fixed time for each batch and a time per pixel; memory: in pixels.

    full: pixels at which it is as fast as it gets.
    """

    def __init__(self, batching: GrowingBatches, full: int, memory: int = 1 << 40) -> None:
        self.batching, self.full, self.memory = batching, full, memory

    def seconds(self, shape: Shape, images: int) -> float:
        return max(images * shape[0] * shape[1], self.full) * 1e-6

    def does(self, shape: Shape, batches: int, delay: Callable[[int], float] = lambda n: 0.0) -> list[int]:
        """The sizes of some batches of a shape, one after the other."""
        sizes = []
        for number in range(batches):
            size = self.batching.size(shape)
            sizes.append(size)
            if size * shape[0] * shape[1] > self.memory:
                self.batching.too_large(shape, size)
            else:
                self.batching.took(shape, size, self.seconds(shape, size) + delay(number))
        return sizes


def test_batches_grow_while_images_get_cheaper() -> None:
    gpu = Gpu(GrowingBatches(), full=8 * 512 * 768)
    assert gpu.does(KODAK, 10) == [1, 2, 4, 8, 16, 16, 8, 8, 8, 8]


def test_where_it_does_not_pay_they_stay_small() -> None:
    gpu = Gpu(GrowingBatches(), full=1)
    assert gpu.does(LARGE, 5) == [1, 2, 2, 1, 1]


def test_one_disturbed_measurement_does_not_end_the_growth() -> None:
    """Such as a batch beside which the store was away."""
    gpu = Gpu(GrowingBatches(), full=8 * 512 * 768)
    sizes = gpu.does(KODAK, 9, lambda number: 1000.0 if number == 2 else 0.0)
    assert sizes == [1, 2, 4, 4, 8, 16, 16, 8, 8]


def test_the_first_batch_which_pays_for_libraries_is_no_yardstick() -> None:
    gpu = Gpu(GrowingBatches(), full=1)
    assert gpu.does(KODAK, 8, lambda number: 60.0 if number == 0 else 0.0)[-1] == 2


def test_what_is_left_over_is_not_measured() -> None:
    batching = GrowingBatches()
    gpu = Gpu(batching, full=8 * 512 * 768)
    assert gpu.does(KODAK, 2) == [1, 2]
    for images in (1, 3):
        batching.took(KODAK, images, 1e-9)
    assert gpu.does(KODAK, 4) == [4, 8, 16, 16]


def test_a_new_shape_begins_with_as_many_pixels_as_were_good() -> None:
    """A corpus of all sizes has hundreds of shapes, few images of each."""
    gpu = Gpu(GrowingBatches(), full=8 * 512 * 768)
    gpu.does(KODAK, 8)
    assert gpu.does(SMALL, 6) == [32, 64, 128, 128, 64, 64]
    assert gpu.does(LARGE, 1) == [1]


def test_growth_stops_at_memory_for_every_shape() -> None:
    gpu = Gpu(GrowingBatches(), full=1 << 40, memory=6 * 512 * 768)
    assert gpu.does(KODAK, 6) == [1, 2, 4, 8, 4, 4]
    sizes = gpu.does(SMALL, 8)
    assert max(sizes) * 256 * 256 <= 4 * 512 * 768
    assert gpu.does(LARGE, 3) == [1, 1, 1]


def test_there_is_an_end_to_growth() -> None:
    assert max(Gpu(GrowingBatches(), full=1 << 40).does((64, 64), 30)) == 256


def test_fixed_batches_are_halved_for_good() -> None:
    batching = FixedBatches(5)
    batching.took(KODAK, 5, 1e-9)
    assert batching.size(KODAK) == 5
    batching.too_large(KODAK, 5)
    batching.too_large(SMALL, 4)
    assert batching.size(KODAK) == 2
    batching.too_large(SMALL, 1)
    assert batching.size(KODAK) == 1


def test_on_a_gpu_sizes_are_found_and_on_a_cpu_images_go_alone(local: Workbench) -> None:
    refined, amortized = make_variant(sga(2)), make_variant(name="w")
    inferred = make_variant(BitsBackBbvi(lmbda=0.01), name="x")
    spec = local.spec(refined, amortized, inferred)
    gpu = Workspace(spec, local.corpus, local.output, torch.device("cuda"))
    assert isinstance(gpu.batching(refined), GrowingBatches)
    assert isinstance(gpu.batching(inferred), GrowingBatches)
    assert gpu.batching(refined) is gpu.batching(refined), "what was learned holds for the next unit"
    assert gpu.batching(amortized).size(KODAK) == 1, "the encoder network takes images one by one"
    assert local.workspace(spec).batching(refined).size(KODAK) == 1
    asked = Workspace(spec, local.corpus, local.output, torch.device("cuda"), WorkerOptions(batch_size=3))
    assert asked.batching(refined).size(KODAK) == 3


def _job(name: str, height: int = 64, width: int = 64) -> FetchedImage:
    return FetchedImage(PlannedImage(name, "e", 1), np.zeros((height, width, 3), np.uint8))


def _batches(batching: Batching, jobs: list[FetchedImage], interrupted: Sequence[str] = ()) -> list[str]:
    """The batches that jobs come in, as the names of their images."""
    seen: list[str] = []

    def encode(batch: Sequence[FetchedImage], refill: Refill) -> Iterator[tuple[int, str]]:
        names = [job.image.key for job in batch]
        seen.append("".join(names))
        yield from enumerate(names)

    done = list(Batches(batching, CPU, encode).done(iter(jobs), interrupted))
    assert sorted(d.job.image.key for d in done) == sorted(job.image.key for job in jobs)
    return seen


def test_mixed_shapes_fill_batches_of_their_own() -> None:
    jobs = [_job(name, width=64 * (1 + n % 3)) for n, name in enumerate("abcdefghijkl")]
    assert _batches(FixedBatches(4), jobs) == ["adgj", "behk", "cfil"]
    assert _batches(FixedBatches(3), jobs) == ["adg", "beh", "cfi", "j", "k", "l"]


def test_images_are_fetched_by_padded_shape_as_far_as_sizes_are_known() -> None:
    sizes = {"a": (512, 768), "b": (768, 512), "c": (500, 760), "d": None, "e": (512, 768), "f": (64, 64)}
    planned = [PlannedImage(key, "e", 1, *(size[::-1] if size else ())) for key, size in sizes.items()]
    assert [image.key for image in by_shape(planned)] == ["d", "f", "a", "c", "e", "b"]


def test_where_memory_is_full_of_waiting_images_the_fullest_batch_goes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not all of them: the others may still fill."""
    monkeypatch.setattr(waiting, "_HELD_SAMPLES", 3 * 64 * 64 * 4)
    jobs = [_job("a"), *(_job(name, width=128) for name in "bc"), *(_job(name) for name in "def")]
    assert _batches(FixedBatches(4), jobs) == ["bc", "adef"]


def test_batches_grow_as_units_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]

    def encode(batch: Sequence[FetchedImage], refill: Refill) -> Iterator[tuple[int, FetchedImage]]:
        clock[0] += 1.0  # whatever its size
        yield from enumerate(batch)

    monkeypatch.setattr(batches_module.time, "monotonic", lambda: clock[0])
    batching = GrowingBatches()
    sizes = []
    for _ in range(2):
        jobs = [_job(f"{n}") for n in range(20)]
        for done in Batches(batching, CPU, encode).done(iter(jobs)):
            sizes.append(done.batch_size)
    assert sizes == [1] + [2] * 2 + [4] * 4 + [8] * 8 + [5] * 5 + [16] * 16 + [4] * 4


def test_an_interrupted_batch_comes_first_and_as_it_was() -> None:
    """Whatever size batches have by now; its state is of these images together. Nor is it a measure."""
    jobs = [_job(name) for name in "abcdefg"]
    batching = GrowingBatches()
    assert _batches(batching, jobs, interrupted=["b", "d", "e"])[0] == "bde"
    assert _batches(FixedBatches(1), jobs, interrupted=["b", "d"]) == ["bd", "a", "c", "e", "f", "g"]


def test_of_an_interrupted_batch_that_is_not_whole_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [_job(name) for name in "abcd"]
    assert _batches(FixedBatches(1), jobs, interrupted=["b", "x"]) == ["b", "a", "c", "d"]
    monkeypatch.setattr(waiting, "_HELD_SAMPLES", 0)
    assert sorted(_batches(FixedBatches(1), jobs, interrupted=["a", "d"])) == ["a", "b", "c", "d"]
