"""Sizes of units, and what a dry run says of a run's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ncbatch.plan import sizing
from ncbatch.plan.corpus import list_corpus
from ncbatch.plan.request import make_spec
from ncbatch.plan.run import open_run
from ncbatch.plan.units import PlannedImage, Unit
from ncbatch.store import StoreOptions, open_store
from ncbatch.worker.calibration import estimate


def test_units_take_as_long_as_asked_but_are_shared_among_the_workers() -> None:
    assert sizing.pixels_per_unit(10**12, 1e-6, 300, 2, packs=False) == 300_000_000
    assert sizing.pixels_per_unit(8_000_000, 1e-6, 300, 2, packs=False) == 1_000_000
    assert sizing.pixels_per_unit(10**12, 1e-6, 300, 2, packs=True) == 64_000_000
    assert sizing.pixels_per_unit(1, 1e-6, 300, 2, packs=False) == 1


def test_as_many_workers_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    assert sizing.local_workers(3, 1, None, 0) == 3
    assert sizing.local_workers(None, 2, None, 0) == 4
    assert sizing.local_workers(None, 1, None, 2) == 2, "one worker a GPU"
    assert sizing.local_workers(None, 1, 0.5, 2) == 4
    assert sizing.local_workers(None, 16, None, 0) == 1


def test_wall_time_is_that_of_the_busiest_worker() -> None:
    units = [Unit(str(n), "v", 0, (PlannedImage("k", "e", 1, n, 1),)) for n in (5, 3, 3, 1)]
    assert sizing.wall_seconds(units, {"v": 1.0}, 1) == 12
    assert sizing.wall_seconds(units, {"v": 1.0}, 2) == 6
    assert sizing.wall_seconds(units, {"v": 1.0}, 9) == 5


def test_a_dry_run_cuts_the_units_of_the_run(tmp_path: Path) -> None:
    corpus = tmp_path / "in"
    corpus.mkdir()
    for i in range(11):
        noise = np.random.default_rng(i).integers(0, 256, (16 + 4 * i, 24, 3), dtype=np.uint8)
        Image.fromarray(noise).save(corpus / f"{i}.png")
    options, workers, unit_seconds = StoreOptions(), 2, 300.0
    spec = make_spec(str(corpus), options, [{"method": "jpeg", "quality": 50}])
    store = open_store(str(corpus))
    images = list_corpus(store, ()).images
    (found,) = estimate(spec, {spec.variants[0].name: images}, store, options, unit_seconds, workers)

    def per_unit(variant: str, images: list[PlannedImage]) -> int:
        pixels = sum(image.pixels for image in images)
        return sizing.pixels_per_unit(pixels, found.seconds_per_pixel, unit_seconds, workers, packs=False)

    output = open_store(str(tmp_path / "out"), create=True)
    run = open_run(spec, list_corpus(store), output, per_unit)  # type: ignore[arg-type]
    assert list(run.units) == found.units
    assert len(found.units) > 4 and found.images == 11 and found.bytes > 0
