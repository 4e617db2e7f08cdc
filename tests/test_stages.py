"""Stages beside the main thread: order, bounds, errors. Nothing here asserts how long anything took."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import torch

from ncbatch.stages import Ahead, Behind
from tests.worker.conftest import _no_thread_is_left  # noqa: F401 - for every test here

SECONDS = 60.0
"""Only a hang takes longer."""


def ahead(work: Callable[[int], int], threads: int = 3, bound: int = 100) -> Ahead[int, int]:
    return Ahead(work, abs, threads, bound, abs)


def behind(work: Callable[[int], int], threads: int = 3, bound: int = 100) -> Behind[int, int]:
    return Behind(work, abs, threads, bound)


def jittered(n: int) -> int:
    """Later items are done first."""
    time.sleep(0.02 / (1 + n))
    return n


def test_results_come_in_the_items_order() -> None:
    with ahead(jittered) as before, behind(jittered) as after:
        assert list(after.after(before.of(range(20)))) == list(range(20))


def test_items_are_prepared_while_the_caller_is_busy() -> None:
    begun = [threading.Event() for _ in range(4)]

    def work(n: int) -> int:
        begun[n].set()
        return n

    with ahead(work) as stage:
        for n in stage.of(range(4)):
            assert all(event.wait(SECONDS) for event in begun), f"all are prepared beside number {n}"


def test_what_waits_is_bounded_by_weight() -> None:
    held, most = [0], [0]
    lock = threading.Lock()

    def work(n: int) -> int:
        with lock:
            held[0] += n
            most[0] = max(most[0], held[0])
        return n

    weights = [3, 1, 4, 1, 5, 9, 2, 6, 5, 25, 5, 8, 9]
    with ahead(work, threads=8, bound=10) as stage:
        taken = []
        for n in stage.of(weights):
            with lock:
                held[0] -= n
            taken.append(n)
    assert taken == weights
    assert most[0] == 25, "the heaviest was alone"


def test_work_begins_before_anything_is_asked_for() -> None:
    begun = threading.Event()

    def work(n: int) -> int:
        begun.set()
        return n

    with ahead(work) as stage:
        results = stage.of([1, 2])
        assert begun.wait(SECONDS)
        assert list(results) == [1, 2]


def test_the_bound_goes_by_what_came_of_an_item() -> None:
    """The size of an image is known once it is decoded."""
    begun: list[int] = []

    def work(n: int) -> int:
        begun.append(n)
        return 60

    with Ahead(work, lambda n: 1, 1, 100, abs) as stage:
        results = stage.of(itertools.count())
        for taken in range(20):
            assert next(results) == 60
            # The one at work when its neighbour turned out to be heavy, and those submitted before that.
            assert len(begun) <= 100 + taken + 1


def test_items_in_turn_are_done_one_after_the_other_beside_the_others() -> None:
    """Odd ones here; the even ones have threads of their own."""
    order: list[int] = []
    even, odd = threading.Event(), threading.Event()

    def work(n: int) -> int:
        if n == 1:
            assert even.wait(SECONDS), "an even one is done beside it"
        if n == 4:
            even.set()
        if n % 2:
            order.append(n)
            odd.set()
        return n

    with Ahead(work, abs, 2, 1000, in_turn=lambda n: n % 2 == 1) as stage:
        assert list(stage.of(range(20))) == list(range(20))
    assert odd.is_set() and order == list(range(1, 20, 2))


def test_what_is_handed_over_goes_on_beside_the_caller() -> None:
    """The second item is made while the first is not done; the first is done once the second is made."""
    second = threading.Event()

    def items() -> Iterator[int]:
        yield 0
        second.set()
        yield 1

    def work(n: int) -> int:
        assert second.wait(SECONDS)
        return n

    with behind(work) as stage:
        assert list(stage.after(items())) == [0, 1]


def test_more_is_handed_over_only_as_there_is_room() -> None:
    at_work: list[int] = []
    most = [0]
    lock = threading.Lock()

    def work(n: int) -> int:
        with lock:
            at_work.append(n)
            most[0] = max(most[0], sum(at_work))
        time.sleep(0.005)
        with lock:
            at_work.remove(n)
        return n

    weights = [5, 5, 5, 30, 5, 5, 10, 1, 1, 1, 1]
    with behind(work, threads=8, bound=10) as stage:
        assert list(stage.after(weights)) == weights
    assert most[0] == 30, "the heavy one was alone"


def test_room_is_made_by_waiting() -> None:
    leave = threading.Event()

    def items(stage: Behind[int, int]) -> Iterator[int]:
        assert not stage.make_room(1000), "nothing is under way"
        yield 1
        assert stage.make_room(1), "there is room beside the first"
        leave.set()
        assert not stage.make_room(10)
        yield 2
        assert not stage.make_room()

    def work(n: int) -> int:
        assert leave.wait(SECONDS)
        return n

    with behind(work, bound=10) as stage:
        assert list(stage.after(items(stage))) == [1, 2]


@pytest.mark.parametrize("error", [ValueError("no"), MemoryError("no"), KeyboardInterrupt()])
def test_an_error_surfaces_when_it_is_its_items_turn(error: BaseException) -> None:
    def work(n: int) -> int:
        if n == 3:
            raise error
        return n

    taken = []
    with pytest.raises(type(error)), ahead(work) as stage:
        for n in stage.of(range(10)):
            taken.append(n)
    assert taken == [0, 1, 2]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_an_error_behind_surfaces_in_the_caller(error: BaseException) -> None:
    def work(n: int) -> int:
        if n == 3:
            raise error
        return n

    made = []

    def items() -> Iterator[int]:
        for n in range(1000):
            made.append(n)
            yield n

    with pytest.raises(type(error)), behind(work, bound=20) as stage:
        list(stage.after(items()))
    assert len(made) < 30, "nothing more is made for a stage that has failed"


def test_making_room_tells_of_errors() -> None:
    """Whoever waits for everything to be done must not take what failed for done."""

    def work(n: int) -> int:
        raise ValueError("no")

    def items(stage: Behind[int, int]) -> Iterator[int]:
        yield 1
        stage.make_room()
        raise AssertionError("not reached")

    with pytest.raises(ValueError, match="no"), behind(work) as stage:
        list(stage.after(items(stage)))


@pytest.mark.parametrize(("error", "kept"), [(ValueError("elsewhere"), 5), (KeyboardInterrupt(), 1)])
def test_after_an_error_elsewhere_what_was_handed_over_is_done(error: BaseException, kept: int) -> None:
    """It may have taken minutes to make; but whoever interrupts a program waits for one item at most."""
    done: list[int] = []
    begun, leave = threading.Event(), threading.Event()

    def work(n: int) -> int:
        begun.set()
        assert leave.wait(SECONDS)
        done.append(n)
        return n

    def items() -> Iterator[int]:
        yield from range(5)
        assert begun.wait(SECONDS)
        threading.Timer(0.2, leave.set).start()
        raise error

    with pytest.raises(type(error)), behind(work, threads=1) as stage:
        list(stage.after(items()))
    assert len(done) == kept


def test_a_generator_that_is_closed_ends_the_threads() -> None:
    def rows() -> Iterator[int]:
        with ahead(jittered) as before, behind(jittered) as after:
            yield from after.after(before.of(itertools.count(1)))

    generator = rows()
    assert next(generator) == 1
    generator.close()  # type: ignore[attr-defined]
    # The fixture for every test here looks for threads that are left.


@pytest.mark.parametrize("threads", [1, 2])
def test_torch_computes_with_as_many_threads_as_the_caller(threads: int) -> None:
    """It is a setting of each thread; by default, a new one would use all cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with ahead(lambda n: torch.get_num_threads()) as stage:
            assert list(stage.of(range(3))) == [threads] * 3
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
