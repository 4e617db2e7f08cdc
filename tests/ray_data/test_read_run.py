"""Runs as data sets of Ray Data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import ncbatch
from ncbatch.datasets.rows import RunRows
from ncbatch.datasets.source import RunSource
from ncbatch.store import open_store
from tests.datasets.encoded_runs import KEYS, EncodedRun, Form, example_of_page

Runs = dict[Form, EncodedRun]

pytest.importorskip("ray.data")
pytestmark = pytest.mark.xdist_group("encoded_runs")


def datasource(uri: str, where: str | None = None) -> Any:
    from ncbatch.ray_data.run_datasource import RunDatasource

    rows = RunRows.read(open_store(uri), None, where, ("image_key", "psnr", "caption"))
    return RunDatasource(RunSource(uri), rows)


@pytest.mark.parametrize("form", ["files", "tar", "packs"])
def test_read_tasks_divide_the_images(encoded_runs: Runs, form: Form) -> None:
    run = encoded_runs[form]
    source = datasource(run.uri)
    assert source.estimate_inmemory_data_size() == sum(image.nbytes for image in run.decoded.values())
    tasks = source.get_read_tasks(3)
    assert 1 < len(tasks) <= 3
    assert sum(task.metadata.size_bytes for task in tasks) == source.estimate_inmemory_data_size()
    found: dict[str, np.ndarray] = {}
    for task in tasks:
        blocks = list(task())
        assert sum(len(block) for block in blocks) == task.metadata.num_rows
        for block in blocks:
            assert block.schema.names == ["image", "image_key", "psnr", "caption"]
            assert block.schema.field("psnr").type == pa.float64()
            found |= dict(zip(block["image_key"].to_pylist(), images_of(block), strict=True))
    assert found.keys() == run.decoded.keys()
    for key, image in run.decoded.items():
        assert np.array_equal(found[key], image)


def images_of(block: pa.Table) -> Iterator[np.ndarray]:
    for chunk in block["image"].chunks:
        yield from chunk.to_numpy(zero_copy_only=False)


def test_a_block_is_bounded(encoded_runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    from ncbatch.ray_data import run_datasource

    monkeypatch.setattr(run_datasource, "_BLOCK_BYTES", 2 * 64 * 64 * 3)
    (task,) = datasource(encoded_runs["files"].uri, "width = 64").get_read_tasks(1)
    assert [len(block) for block in task()] == [2, 2, 1]
    (limited,) = datasource(encoded_runs["files"].uri).get_read_tasks(1, per_task_row_limit=3)
    assert sum(len(block) for block in limited()) == 3


@pytest.mark.ray
@pytest.mark.slow
def test_the_example_of_the_page_runs_on_ray(encoded_runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    run = encoded_runs["files"]
    example = example_of_page("read_run", run.uri)
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        seen: list[Any] = []
        exec(example, {"train_step": lambda batch: seen.append(batch)})
        assert sorted(key for batch in seen for key in batch["image_key"]) == KEYS
        for batch in seen:
            for key, image in zip(batch["image_key"], batch["image"], strict=True):
                assert np.array_equal(image, run.decoded[key])
        nothing = ncbatch.ray_data.read_run(run.uri, where="image_key = '0.png'", override_num_blocks=1)
        assert nothing.count() == 1
    finally:
        ray.shutdown()
