"""An image that has converged gives its place in the batch to the next one that waits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from ncbatch.codec.encode import encode
from ncbatch.codec.errors import DivergedError
from ncbatch.codec.refinement.batch import Refinement
from ncbatch.codec.refinement.convergence import Convergence
from ncbatch.metrics.failures import Failure
from ncbatch.metrics.traces import read_traces
from ncbatch.plan.units import PlannedImage
from ncbatch.store import StoreUnavailable
from ncbatch.worker.batches import Batches, Refill
from ncbatch.worker.batching import FixedBatches, GrowingBatches
from ncbatch.worker.fetch import FetchedImage
from ncbatch.worker.unit import run_unit
from tests.workbench import ATTEMPTS, MODEL, Workbench, make_image, make_variant, sga
from tests.worker.test_work_in_progress import DeadlyStore, Killed

CPU = torch.device("cpu")
PICTURES = {f"{n}.png": make_image(64 - n, 64, seed=n) for n in range(6)}


def _job(name: str, width: int = 64) -> FetchedImage:
    return FetchedImage(PlannedImage(name, "e", 1), np.zeros((64, width, 3), np.uint8))


class OneByOne:
    """In the place of a coder: the first image of the batch is done at each pause, and its place refilled."""

    def __init__(self, trouble: dict[str, Exception] | None = None) -> None:
        self.trouble = trouble or {}
        self.batches: list[list[str]] = []

    def __call__(
        self, jobs: Sequence[FetchedImage], refill: Refill
    ) -> Iterator[tuple[int, str | DivergedError]]:
        under_way = dict(enumerate(jobs))
        joined = len(under_way)
        while under_way:
            self.batches.append([job.image.key for job in under_way.values()])
            for job in under_way.values():
                if isinstance(error := self.trouble.get(job.image.key), MemoryError):
                    del self.trouble[job.image.key]
                    raise error
            number, job = next(iter(under_way.items()))
            del under_way[number]
            error = self.trouble.get(job.image.key)
            yield number, error if isinstance(error, DivergedError) else job.image.key
            if under_way:
                for more in refill(list(under_way)):
                    under_way[joined] = more
                    joined += 1

    def does(self, batching: Any, jobs: Iterator[FetchedImage], **options: Any) -> dict[str, Any]:
        make_room = options.pop("make_room", lambda pixels: False)
        batches: Batches[str] = Batches(batching, CPU, self, make_room)
        return {done.job.image.key: done.result for done in batches.done(jobs, **options)}


def test_the_place_of_an_image_that_is_done_goes_to_the_next_of_its_shape() -> None:
    jobs = [_job("a"), _job("b"), _job("W", 128), _job("c"), _job("d"), _job("V", 128)]
    coder, room = OneByOne(), []

    def make_room(pixels: int) -> bool:
        room.append(pixels)
        return False

    found = coder.does(FixedBatches(2), iter(jobs), make_room=make_room)
    assert coder.batches == [["a", "b"], ["b", "c"], ["c", "d"], ["d"], ["W", "V"], ["V"]]
    assert found == {name: name for name in "abcdWV"}
    assert set(room) == {2 * 64 * 64, 2 * 64 * 128}, "room for all that are under way, each time"


def test_nothing_is_waited_for_while_others_go_on() -> None:
    ready = iter([False, True, False, False])
    coder = OneByOne()
    jobs = iter([_job(name) for name in "abcd"])
    coder.does(FixedBatches(2), jobs, is_ready=lambda: next(ready))
    assert coder.batches == [["a", "b"], ["b"], ["c", "d"], ["d"]]


def test_batches_that_are_measured_keep_to_their_images() -> None:
    coder = OneByOne()
    coder.does(GrowingBatches(), iter([_job(name) for name in "abcdefg"]))
    assert coder.batches[:3] == [["a"], ["b", "c"], ["c"]]


def test_what_fails_to_be_fetched_is_told_when_the_batch_is_done() -> None:
    """It is not about the images that are under way."""

    def jobs() -> Iterator[FetchedImage]:
        yield from (_job("a"), _job("b"))
        raise StoreUnavailable("away")

    coder, found = OneByOne(), []
    with pytest.raises(StoreUnavailable, match="away"):
        for done in Batches(FixedBatches(2), CPU, coder).done(jobs()):
            found.append(done.job.image.key)
    assert found == ["a", "b"]


def test_where_memory_runs_out_all_that_are_under_way_are_done_again() -> None:
    coder = OneByOne({"c": MemoryError("no")})
    found = coder.does(FixedBatches(2), iter([_job(name) for name in "abcde"]))
    assert coder.batches == [["a", "b"], ["b", "c"], ["b"], ["c"], ["d"], ["e"]]
    assert found == {name: name for name in "abcde"}


def test_an_image_that_diverges_fails_alone_and_its_place_is_refilled() -> None:
    coder = OneByOne({"b": DivergedError("at step 9")})
    found = coder.does(FixedBatches(2), iter([_job(name) for name in "abcd"]))
    assert coder.batches == [["a", "b"], ["b", "c"], ["c", "d"], ["d"]]
    assert found.pop("b") == Failure("diverged", "at step 9")
    assert found == {name: name for name in "acd"}


@pytest.fixture
def joins(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images joined others, each time."""
    found: list[int] = []
    join = Refinement.join

    def noted(self: Refinement, images: Any, targets: Any) -> None:
        if self.joined:
            found.append(len(targets))
        join(self, images, targets)

    monkeypatch.setattr(Refinement, "join", noted)
    # Images end at steps of their own, which is left to chance: but each to its own.
    monkeypatch.setattr(Convergence, "reached", lambda self, step, loss: int(loss) % 3 == 0)
    return found


@pytest.mark.parametrize("batch_size", [2, 4])
def test_images_that_join_become_what_they_become_alone(
    local: Workbench, joins: list[int], batch_size: int
) -> None:
    local.add(PICTURES)
    recipe = sga(40, check_every=10)
    rows = local.encode(local.spec(make_variant(recipe)), batch_size=batch_size, trace_every=20)
    assert joins
    looks = read_traces(local.output).to_pylist()
    for key, pixels in PICTURES.items():
        alone = encode(MODEL, [pixels], recipe)[0]
        assert local.bitstream(rows[key]) == alone.outcome.data
        assert rows[key].steps_taken == alone.steps_taken
        steps = [look["step"] for look in looks if look["image_key"] == key]
        assert steps == sorted({0, *range(0, alone.steps_taken or 0, 20), alone.steps_taken})


def test_a_batch_that_was_refilled_goes_on_after_its_worker_was_killed(
    local: Workbench, joins: list[int]
) -> None:
    local.add(PICTURES)
    recipe = sga(40, check_every=10)
    spec = local.spec(make_variant(recipe))
    unit = local.unit(spec)
    for saves in (1, 2, 3, 4):
        workspace = local.workspace(spec, wip_seconds=0.0, batch_size=2)
        workspace.output = DeadlyStore(local.output, saves)
        with pytest.raises(Killed):
            run_unit(workspace, unit, ATTEMPTS[0], {})
    run_unit(local.workspace(spec, batch_size=2), unit, ATTEMPTS[1], {})
    rows = local.rows()
    assert joins and rows.keys() == PICTURES.keys()
    for key, pixels in PICTURES.items():
        assert local.bitstream(rows[key]) == encode(MODEL, [pixels], recipe)[0].outcome.data
