"""Runs as data sets for PyTorch."""

from __future__ import annotations

import logging
import pickle
import re
import shutil
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import ncbatch
from ncbatch.datasets import RunDataset
from ncbatch.store import LocalStore, Store, open_store
from tests.datasets.encoded_runs import KEYS, EncodedRun, Form, example_of_page
from tests.workbench import Workbench, make_image

Runs = dict[Form, EncodedRun]
FORMS = ("files", "tar", "packs")
pytestmark = pytest.mark.xdist_group("encoded_runs")


def keys(samples: Any) -> list[str]:
    return [sample["image_key"] for sample in samples]


@pytest.mark.parametrize("form", FORMS)
def test_every_image_comes_as_it_is_decoded_elsewhere(encoded_runs: Runs, form: Form) -> None:
    run = encoded_runs[form]
    samples = list(RunDataset(run.uri, columns=("image_key", "width", "caption")))
    assert sorted(keys(samples)) == KEYS
    for sample in samples:
        image, expected = sample["image"], run.decoded[sample["image_key"]]
        assert (image.dtype, image.is_contiguous()) == (torch.uint8, True)
        assert np.array_equal(image.permute(1, 2, 0).numpy(), expected)
        assert (sample["width"], sample["caption"]) == (expected.shape[1], None)


@pytest.mark.parametrize("form", FORMS)
def test_ranks_and_workers_share_an_epoch(encoded_runs: Runs, form: Form) -> None:
    """In processes, as a training has them; each image comes once, whoever decodes it."""
    found: list[str] = []
    for rank in range(2):
        dataset = RunDataset(encoded_runs[form].uri, shuffle=True, seed=3, rank=rank, world_size=2)
        dataset.set_epoch(1)
        loaded = keys(DataLoader(dataset, batch_size=None, num_workers=2 if rank == 0 else 0))
        assert len(loaded) == dataset.images
        found += loaded
    assert sorted(found) == KEYS


def test_the_order_follows_from_seed_and_epoch(encoded_runs: Runs) -> None:
    uri = encoded_runs["files"].uri

    def order(epoch: int, **options: Any) -> list[str]:
        dataset = RunDataset(uri, **options)
        dataset.set_epoch(epoch)
        return keys(dataset)

    plain, first = order(0), order(0, shuffle=True)
    assert plain == KEYS == order(5)
    assert first == order(0, shuffle=True) != plain
    assert len({tuple(order(n, shuffle=True, seed=seed)) for n in range(2) for seed in range(2)}) == 4


def test_workers_that_stay_are_told_of_the_next_epoch(encoded_runs: Runs) -> None:
    dataset = RunDataset(encoded_runs["files"].uri, shuffle=True)
    loader = DataLoader(dataset, batch_size=None, num_workers=1, persistent_workers=True)
    found = []
    for epoch in range(2):
        dataset.set_epoch(epoch)
        found.append(keys(loader))
    dataset.set_epoch(0)
    assert found[0] == keys(dataset) != found[1]
    dataset.set_epoch(1)
    assert found[1] == keys(dataset)


def test_ranks_of_an_epoch_can_be_made_even(encoded_runs: Runs) -> None:
    uri = encoded_runs["packs"].uri
    datasets = [RunDataset(uri, shuffle=True, rank=n, world_size=2, drop_last=True) for n in range(2)]
    (images,) = {dataset.images for dataset in datasets}
    assert images == 3, "of packs of three and four"
    found = [keys(dataset) for dataset in datasets]
    assert [len(each) for each in found] == [images] * 2 and len({*chain.from_iterable(found)}) == 2 * images


def test_images_of_packs_are_mixed_by_a_buffer(encoded_runs: Runs) -> None:
    uri = encoded_runs["packs"].uri
    pack_of = {row["image_key"]: row["bitstream_key"] for row in ncbatch.open_run(uri).table().to_pylist()}

    def changes(order: list[str]) -> int:
        return sum(pack_of[a] != pack_of[b] for a, b in pairwise(order))

    packs = len({*pack_of.values()} - {None})
    apart = keys(RunDataset(uri, shuffle=True))
    mixed = keys(RunDataset(uri, shuffle=True, shuffle_buffer=4))
    assert sorted(apart) == sorted(mixed) == KEYS
    assert changes(apart) == packs - 1 < changes(mixed)


def test_neighbours_in_a_tar_come_with_one_request(
    encoded_runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    real = LocalStore.get_range_with_info

    def told(self: LocalStore, key: str, start: int, length: int) -> Any:
        asked.append(key)
        return real(self, key, start, length)

    monkeypatch.setattr(LocalStore, "get_range_with_info", told)
    dataset = RunDataset(encoded_runs["tar"].uri)
    asked.clear()
    assert len(list(dataset)) == 7
    assert len(asked) == len(set(asked)) < 7
    assert all(key.startswith("tars/") for key in asked)


def test_a_condition_and_a_transform(encoded_runs: Runs) -> None:
    uri = encoded_runs["files"].uri
    dataset = RunDataset(uri, where="width < 64 -- narrow ones", transform=lambda image: image.float().mean())
    found = {sample["image_key"]: sample["image"].item() for sample in dataset}
    assert found == {
        key: pytest.approx(encoded_runs["files"].decoded[key].mean(), rel=1e-5) for key in ("4.png", "6.png")
    }
    with pytest.raises(ncbatch.NcbatchError, match="no encoded image that fits the condition"):
        RunDataset(uri, where="width > 1000")
    with pytest.raises(ncbatch.NcbatchError, match="breadth"):
        RunDataset(uri, where="breadth > 1000")
    with pytest.raises(ncbatch.NcbatchError, match="nope"):
        RunDataset(uri, columns=("nope",))


def test_a_data_set_can_be_sent_to_another_process(encoded_runs: Runs) -> None:
    dataset = RunDataset(encoded_runs["files"].uri, shuffle=True)
    dataset.set_epoch(4)
    sent = pickle.loads(pickle.dumps(dataset))
    assert (sent.epoch, keys(sent)) == (4, keys(dataset))


def copied(run: EncodedRun, folder: Path) -> Store:
    """A copy of a run, to be damaged."""
    shutil.copytree(open_store(run.uri).root, folder / "copy")  # type: ignore[attr-defined]
    return open_store(str(folder / "copy"))


@pytest.mark.parametrize("form", ["files", "tar"])
def test_a_damaged_bitstream_is_one_error_or_is_skipped(
    encoded_runs: Runs, tmp_path: Path, caplog: pytest.LogCaptureFixture, form: Form
) -> None:
    output = copied(encoded_runs[form], tmp_path)
    (row,) = ncbatch.open_run(output.uri).query("from metrics where image_key = '2.png'").to_pylist()
    data = bytearray(output.get(row["bitstream_key"]))
    data[row["offset"] + 20] ^= 1
    output.put(row["bitstream_key"], bytes(data))
    told = rf"{re.escape(output.uri)}: the image '2.png' cannot be decoded: .*its hash differs"
    with pytest.raises(ncbatch.NcbatchError, match=rf"{told}; `ncbatch verify --repair`"):
        list(RunDataset(output.uri))
    with caplog.at_level(logging.WARNING):
        found = keys(RunDataset(output.uri, on_error="skip"))
    assert sorted(found) == [key for key in KEYS if key != "2.png"]
    (record,) = [each for each in caplog.records if each.name.startswith("ncbatch.datasets")]
    assert re.match(told, record.getMessage())
    loader = DataLoader(RunDataset(output.uri), batch_size=None, num_workers=1)
    with pytest.raises(ncbatch.NcbatchError, match=r"the image '2\.png' cannot be decoded"):
        list(loader)
    with pytest.raises(ncbatch.NcbatchError, match="'ignore' is not one of raise, skip"):
        RunDataset(output.uri, on_error="ignore")  # type: ignore[arg-type]


def test_what_lacks_its_model_is_not_skipped(encoded_runs: Runs, tmp_path: Path) -> None:
    output = copied(encoded_runs["files"], tmp_path)
    (key,) = (info.key for info in output.list("models/"))
    output.delete(key)
    with pytest.raises(ncbatch.NcbatchError, match=f"{key} is missing; the run's bitstreams need it"):
        list(RunDataset(output.uri, on_error="skip"))


def test_what_cannot_be_read_is_said(local: Workbench, tmp_path: Path) -> None:
    with pytest.raises(ncbatch.NcbatchError, match="holds no run"):
        RunDataset(tmp_path)
    local.add({"a.png": make_image()})
    local.open(local.spec())
    with pytest.raises(ncbatch.NcbatchError, match="has no encoded image; `ncbatch status`"):
        RunDataset(local.output.uri)
    with pytest.raises(ncbatch.NcbatchError, match="no variant 'w'; it has v"):
        RunDataset(local.output.uri, variant="w")
    with pytest.raises(ncbatch.NcbatchError, match="rank and world_size belong together"):
        RunDataset(local.output.uri, rank=0)
    with pytest.raises(ValueError, match="rank: 2 is not one of 2 ranks"):
        RunDataset(local.output.uri, rank=2, world_size=2)


def test_a_device_that_is_not_there_is_said(encoded_runs: Runs) -> None:
    with pytest.raises(ncbatch.NcbatchError, match="device: 'nope' cannot be used here"):
        next(iter(RunDataset(encoded_runs["files"].uri, device="nope")))


def test_the_example_of_the_page_runs(encoded_runs: Runs) -> None:
    example = example_of_page("RunDataset", encoded_runs["files"].uri)
    example = example.replace("num_workers=8", "num_workers=0").replace("range(10)", "range(2)")
    seen: list[Any] = []
    exec(example, {"train_step": lambda images, keys: seen.append((images.shape, len(keys)))})
    assert seen and all(shape[1:] == (3, 32, 32) and shape[0] == count for shape, count in seen)
