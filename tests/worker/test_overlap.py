"""Fetching, refining and finishing overlap, and nothing that a unit promises depends on it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from ncbatch import layout
from ncbatch.codec import codecs
from ncbatch.codec.encode import encode, find_latents, finish
from ncbatch.codec.errors import DecodeCheckError
from ncbatch.plan.spec import RunSpec
from ncbatch.plan.units import Unit
from ncbatch.store import Store, StoreUnavailable
from ncbatch.worker.opened_images import OpenedImages
from ncbatch.worker.unit import run_unit
from tests.workbench import ATTEMPTS, MODEL, Workbench, make_image, make_variant, sga

SECONDS = 60.0
"""Only a hang takes longer."""
PICTURES = {f"{name}.png": make_image(seed=n) for n, name in enumerate("abcd")}


@dataclass
class WatchedStore:
    """A real store; `seen` is called with "get" or "put" and the key before each such request."""

    store: Store
    seen: Callable[[str, str], None]

    def get_with_info(self, key: str) -> Any:
        self.seen("get", key)
        return self.store.get_with_info(key)

    def put(self, key: str, data: bytes) -> None:
        self.seen("put", key)
        self.store.put(key, data)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        self.seen("put", key)
        return self.store.put_if_absent(key, data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)


@dataclass
class Refining:
    """Counts refinements in the place of `find_latents`; `begin` is called with the number of each."""

    begin: Callable[[int], None] = lambda number: None
    sizes: list[int] = field(default_factory=list)

    def __call__(self, model: Any, images: Any, recipe: Any, **options: Any) -> Any:
        if recipe.refines:
            self.sizes.append(len(images))
            self.begin(len(self.sizes))
        return find_latents(model, images, recipe, **options)


def _planned(bench: Workbench, steps: int = 2, **fields: Any) -> tuple[RunSpec, Unit]:
    bench.add(PICTURES)
    spec = bench.spec(make_variant(sga(steps), **fields))
    return spec, bench.unit(spec)


def _run(bench: Workbench, spec: RunSpec, unit: Unit, seen: Any, **options: Any) -> None:
    workspace = bench.workspace(spec, **options)
    workspace.corpus = WatchedStore(workspace.corpus, seen)
    workspace.images = OpenedImages(workspace.corpus, 0)
    workspace.output = WatchedStore(workspace.output, seen)
    run_unit(workspace, unit, ATTEMPTS[0], {})


def test_the_next_images_are_fetched_while_one_is_refined(
    local: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = {key: threading.Event() for key in PICTURES}

    def begin(number: int) -> None:
        assert all(event.wait(SECONDS) for event in fetched.values())

    def seen(what: str, key: str) -> None:
        if what == "get":
            fetched[key].set()

    monkeypatch.setattr(codecs, "find_latents", Refining(begin))
    _run(local, *_planned(local), seen)
    assert {row.status for row in local.rows().values()} == {"ok"}


def test_an_image_is_published_while_the_next_is_refined(
    local: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And only then: the first bitstream is held back until the second refinement has begun."""
    second, published = threading.Event(), threading.Event()

    def begin(number: int) -> None:
        if number == 2:
            second.set()
            assert published.wait(SECONDS)

    def seen(what: str, key: str) -> None:
        if what == "put" and key.startswith(layout.BITSTREAMS_PREFIX):
            assert second.wait(SECONDS)
            published.set()

    monkeypatch.setattr(codecs, "find_latents", Refining(begin))
    _run(local, *_planned(local), seen)
    assert {row.status for row in local.rows().values()} == {"ok"}


def test_refining_waits_for_what_is_left_to_finish(local: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for two images: the third begins when the first is published, not earlier."""
    spec, unit = _planned(local)
    published: list[str] = []
    refining = Refining(lambda number: counts.append((number, len(published))))
    counts: list[tuple[int, int]] = []

    def seen(what: str, key: str) -> None:
        if what == "put" and key.startswith(layout.BITSTREAMS_PREFIX):
            published.append(key)

    monkeypatch.setattr(codecs, "find_latents", refining)
    workspace = local.workspace(spec)
    workspace.output = WatchedStore(workspace.output, seen)
    workspace.bounds = replace(workspace.bounds, behind=2 * 64 * 64)
    run_unit(workspace, unit, ATTEMPTS[0], {})
    assert [number for number, _ in counts] == [1, 2, 3, 4]
    assert all(done >= number - 2 for number, done in counts)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_what_an_image_becomes_does_not_depend_on_the_pipeline(local: Workbench, batch_size: int) -> None:
    spec, unit = _planned(local, steps=10)
    workspace = local.workspace(spec, batch_size=batch_size)
    workspace.bounds = replace(workspace.bounds, finishers=3)
    run_unit(workspace, unit, ATTEMPTS[0], {})
    rows = local.rows()
    for key, pixels in PICTURES.items():
        alone = encode(MODEL, [pixels], sga(10))[0]
        assert local.bitstream(rows[key]) == alone.outcome.data
        assert (rows[key].mse, rows[key].ms_ssim) == (alone.outcome.mse, alone.ms_ssim)


def test_a_state_is_saved_only_once_earlier_images_are_published(
    local: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes the place of theirs: until then, theirs is all that a killed worker leaves of them."""
    order: list[str] = []
    slow = threading.Event()

    def seen(what: str, key: str) -> None:
        if what == "put" and key.startswith(layout.BITSTREAMS_PREFIX):
            slow.wait(0.3)
            order.append("published")
        elif what == "put" and key.startswith(layout.WIP_PREFIX):
            order.append(f"saved {len(refining.sizes)}")

    refining = Refining()
    monkeypatch.setattr(codecs, "find_latents", refining)
    _run(local, *_planned(local, steps=30), seen, wip_seconds=0.0)
    assert order == [entry for n in range(1, 5) for entry in (f"saved {n}", f"saved {n}", "published")], (
        "two saves of each, and none of the next before"
    )


def test_a_store_that_stays_away_ends_the_unit(local: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was refined before a fetch failed is published, for the next attempt to adopt."""
    spec, unit = _planned(local)

    def seen(what: str, key: str) -> None:
        if key == "d.png":
            raise StoreUnavailable("away")

    with pytest.raises(StoreUnavailable, match="away"):
        _run(local, spec, unit, seen)
    assert len(local.keys(layout.BITSTREAMS_PREFIX)) == 3
    assert local.keys(layout.UNITS_PREFIX) == []
    run_unit(local.workspace(spec), unit, ATTEMPTS[1], {})
    assert sorted(key for key, row in local.rows().items() if row.adopted) == ["a.png", "b.png", "c.png"]


@pytest.mark.parametrize("error", [StoreUnavailable("away"), KeyboardInterrupt(), ValueError("a bug")])
def test_what_fails_behind_ends_the_unit(local: Workbench, error: BaseException) -> None:
    spec, unit = _planned(local)

    def seen(what: str, key: str) -> None:
        if what == "put" and key.startswith(layout.BITSTREAMS_PREFIX) and "b.png" in key:
            raise error

    with pytest.raises(type(error)):
        _run(local, spec, unit, seen)
    assert local.keys(layout.UNITS_PREFIX) == []
    run_unit(local.workspace(spec), unit, ATTEMPTS[1], {})
    assert {row.status for row in local.rows().values()} == {"ok"}


def test_whoever_stops_consuming_leaves_no_thread(local: Workbench) -> None:
    """Such as a beat that cannot be sent. The fixture of this folder looks for threads."""
    spec, unit = _planned(local)

    def report(beat: Any) -> None:
        raise ConnectionError("the driver is gone")

    with pytest.raises(ConnectionError):
        run_unit(local.workspace(spec, report), unit, ATTEMPTS[0], {})


@pytest.fixture
def finishing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Any], BaseException | None]], None]:
    """Lets finishing a refined image go wrong, given its pixels."""

    def install(trouble: Callable[[Any], BaseException | None]) -> None:
        def faulty(model: Any, pixels: Any, recipe: Any, found: Any) -> Any:
            error = trouble(pixels)
            if error is not None and not found.best.equals(found.amortized):
                raise error
            return finish(model, pixels, recipe, found)

        monkeypatch.setattr(codecs, "finish", faulty)

    return install


def test_an_image_that_runs_out_of_memory_beside_others_is_finished_alone(
    local: Workbench, finishing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    refining = Refining()
    monkeypatch.setattr(codecs, "find_latents", refining)
    main = threading.main_thread()
    finishing(lambda pixels: None if threading.current_thread() is main else MemoryError("no"))
    _run(local, *_planned(local), lambda what, key: None)
    assert {row.status for row in local.rows().values()} == {"ok"}
    assert refining.sizes == [1, 1, 1, 1], "nothing is refined twice"


def test_an_image_that_cannot_be_finished_alone_fails_alone(local: Workbench, finishing: Any) -> None:
    wrong = PICTURES["b.png"]
    finishing(lambda pixels: MemoryError("19 GiB") if (pixels == wrong).all() else None)
    _run(local, *_planned(local), lambda what, key: None, batch_size=2)
    rows = local.rows()
    failed = rows.pop("b.png")
    assert (failed.error_class, failed.error) == (
        "out_of_memory",
        "the image does not fit in memory: 19 GiB",
    )
    assert {row.status for row in rows.values()} == {"ok"}


@pytest.mark.parametrize("fall_back", [False, True])
def test_what_fails_its_decode_check_behind_is_not_published(
    local: Workbench, finishing: Any, fall_back: bool
) -> None:
    wrong = PICTURES["b.png"]
    finishing(lambda pixels: DecodeCheckError("other latents") if (pixels == wrong).all() else None)
    _run(local, *_planned(local, fall_back=fall_back), lambda what, key: None, batch_size=2)
    rows = local.rows()
    row = rows.pop("b.png")
    if fall_back:
        assert (row.method, row.error) == ("amortized", "fell back to the amortized encoding: other latents")
    else:
        assert (row.error_class, row.error) == ("decode_check", "other latents")
    assert {row.method for row in rows.values()} == {"sga"}


def test_a_batch_too_large_beside_others_is_tried_without_them(
    local: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not split, nor do later ones come smaller, for what was finished beside it."""
    failed = threading.Event()

    def begin(number: int) -> None:
        if number == 2:
            failed.set()
            raise MemoryError("no")

    def seen(what: str, key: str) -> None:
        if what == "put" and key.startswith(layout.BITSTREAMS_PREFIX):
            assert failed.wait(SECONDS)

    refining = Refining(begin)
    monkeypatch.setattr(codecs, "find_latents", refining)
    spec, unit = _planned(local)
    workspace = local.workspace(spec, batch_size=2)
    workspace.output = WatchedStore(workspace.output, seen)
    run_unit(workspace, unit, ATTEMPTS[0], {})
    assert refining.sizes == [2, 2, 2]
    assert workspace.batching(spec.variants[0]).size((64, 64)) == 2
    assert {row.batch_size for row in local.rows().values()} == {2}
