"""An image is fetched and decoded once for the variants whose units follow each other."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from ncbatch.codec.methods import Jpeg, WebP
from ncbatch.metrics.table import read_table
from ncbatch.plan.spec import Variant
from ncbatch.store import LocalStore
from ncbatch.worker.fetch import FetchedImage
from ncbatch.worker.opened_images import OpenedImages
from ncbatch.worker.unit import run_unit
from tests.workbench import ATTEMPTS, Workbench, make_image, make_variant, sga

KEYS = ["a.png", "b.png", "c.png"]


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each key was fetched."""
    counts: Counter[str] = Counter()
    get = LocalStore.get_with_info

    def counted(store: LocalStore, key: str) -> Any:
        counts[key] += 1
        return get(store, key)

    monkeypatch.setattr(LocalStore, "get_with_info", counted)
    return counts


def classical(recipe: Any, name: str, **fields: Any) -> Variant:
    return Variant(name=name, model=None, model_digest=None, recipe=recipe, **fields)


def work(bench: Workbench, *variants: Variant) -> None:
    spec = bench.spec(*variants)
    workspace = bench.workspace(spec)
    for unit in bench.open(spec).units:
        run_unit(workspace, unit, ATTEMPTS[0], {})


def test_variants_share_what_was_opened(local: Workbench, fetched: Counter[str]) -> None:
    local.add({key: make_image(seed=n) for n, key in enumerate(KEYS)})
    work(
        local, make_variant(name="one"), make_variant(sga(), name="two"), classical(WebP(quality=50), "webp")
    )
    assert {key: fetched[key] for key in KEYS} == dict.fromkeys(KEYS, 1)
    rows = read_table(local.output).to_pylist()
    assert len(rows) == 3 * len(KEYS) and {row["status"] for row in rows} == {"ok"}
    assert len({(row["image_key"], row["image_sha256"]) for row in rows}) == len(KEYS)


def test_what_the_pixels_depend_on_is_not_shared(local: Workbench, fetched: Counter[str]) -> None:
    local.add({key: make_image(seed=n) for n, key in enumerate(KEYS)})
    work(local, classical(Jpeg(quality=50), "one"), classical(Jpeg(quality=50), "two", alpha="black"))
    assert {key: fetched[key] for key in KEYS} == dict.fromkeys(KEYS, 2)


def test_one_variant_keeps_nothing(local: Workbench) -> None:
    local.add({"a.png": make_image()})
    spec = local.spec(make_variant())
    workspace = local.workspace(spec)
    run_unit(workspace, local.unit(spec), ATTEMPTS[0], {})
    assert not workspace.images._kept


def test_those_that_were_opened_last_stay(local: Workbench, fetched: Counter[str]) -> None:
    local.add({key: make_image(seed=n) for n, key in enumerate(KEYS)})
    variant = make_variant()
    planned = {image.key: image for image in local.unit(local.spec(variant)).images}
    images = OpenedImages(local.corpus, 2 * 64 * 64)
    fetched.clear()
    for key in ("a.png", "b.png", "a.png", "c.png", "a.png", "b.png"):
        image, opened = images.open(planned[key], variant)
        assert isinstance(opened, FetchedImage) and opened.image == image and image.content
    assert fetched == {"a.png": 1, "b.png": 2, "c.png": 1}
    changed = replace(planned["b.png"], etag="another")
    assert not isinstance(images.open(changed, variant)[1], FetchedImage)
