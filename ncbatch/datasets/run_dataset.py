"""A run as a data set for PyTorch's DataLoader."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from ncbatch.api.places import path_text, store_options
from ncbatch.datasets.groups import Groups
from ncbatch.datasets.rows import RunRows
from ncbatch.datasets.source import OnError, RunSource
from ncbatch.errors import UsageError
from ncbatch.images.pixels import Pixels
from ncbatch.store import open_store

Item = TypeVar("Item")


class RunDataset(IterableDataset[dict[str, Any]]):
    """The images of an encoded run, decoded when they are asked for: an `IterableDataset` for a `DataLoader`.

    Each process decodes its share: of the ranks of a distributed training, and of the workers of each rank's
    DataLoader. An image is one request to the store, or a part of one where images lie side by side in a tar
    and are not shuffled; a pack is one request, and its images stay together. A process holds a few
    bitstreams or one pack, and the images in `shuffle_buffer`.

    The rows are read once, when the data set is made; images that a run encodes later are not in it.

    Args:
        uri: The run's output folder: an `s3://bucket/prefix` URI, a `file://` URI or a path.
        variant: The name of the variant; may be left out where there is only one.
        where: Only images whose row fits this condition in DuckDB's SQL, such as `"psnr > 30"`, or
            `"hash(image_key) % 10 > 0"` for nine tenths of them.
        columns: Columns of the run's table that come with each image.
        transform: Is given each image, a tensor uint8[3, height, width], and returns what takes its place.
        shuffle: Whether the order is random, another one for each epoch.
        seed: Of that order; all ranks have to give the same.
        shuffle_buffer: How many decoded images a process holds, to pick the next from. It mixes the images of
            several packs, whose images otherwise come one after the other; files and tars need none.
        rank: The number of this process in a distributed training; by default that of `torch.distributed`,
            if it is initialised when the data set is made, and else 0.
        world_size: The number of such processes; by default as `rank`.
        drop_last: Leaves out so many images of an epoch that each rank gives the same number. Ranks differ by
            one image otherwise, or with packs by up to a pack, and a rank that ends first keeps the others
            waiting.
        device: Where the decoder computes: "cpu", or "cuda" in the training's own process or in workers that
            are spawned, not forked.
        on_error: What an image does whose bytes are missing or damaged: "raise" an error that names it, or
            "skip", with a warning in the log.
        endpoint_url: The S3 server that an `s3://` URI refers to; by default the environment's.
        region: The region of that server; by default the environment's.
        storage_options: What else S3 needs, by the keys of `--storage-option`.

    Yields:
        A dictionary for each image: `image`, a tensor uint8[3, height, width] in RGB, or what `transform`
        made of it; and the columns by their names.

    Raises:
        NcbatchError: There is no run, its store cannot be reached, no image is wanted, or the condition or a
            column is wrong. While it is read: an image cannot be decoded, or the run's model is missing.
        TypeError: `uri` is neither text nor a path.
        ValueError: `rank` is not one of `world_size`.

    Attributes:
        images: How many images this rank gives in an epoch, if none is skipped.
        epoch: As `set_epoch` says.
    """

    def __init__(
        self,
        uri: str | os.PathLike[str],
        *,
        variant: str | None = None,
        where: str | None = None,
        columns: Sequence[str] = ("image_key",),
        transform: Callable[[Tensor], Any] | None = None,
        shuffle: bool = False,
        seed: int = 0,
        shuffle_buffer: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        drop_last: bool = False,
        device: torch.device | str = "cpu",
        on_error: OnError = "raise",
        endpoint_url: str | None = None,
        region: str | None = None,
        storage_options: Mapping[str, str] | None = None,
    ) -> None:
        self._source = RunSource(
            path_text(uri, "uri"), on_error, str(device), store_options(endpoint_url, region, storage_options)
        )
        self._rank, self._world_size = _place(rank, world_size)
        store = open_store(self._source.uri, self._source.options)
        store.check()
        self._rows = RunRows.read(store, variant, where, columns)
        self._transform, self._drop_last = transform, drop_last
        self._shuffle, self._seed, self._buffer = shuffle, seed, shuffle_buffer
        # Shared, so that workers that live longer than an epoch are told of the next.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    @property
    def epoch(self) -> int:
        """Which order the images come in."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Says which epoch begins next; call it before each, or all of them have the same order."""
        self._epoch.fill_(epoch)

    @property
    def images(self) -> int:
        """How many images this rank gives in an epoch, if none is skipped."""
        return self._share().images

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker is not None else (0, 1)
        share = self._share().shares(workers)[number]
        random = None
        if self._shuffle:
            random = np.random.default_rng([self._seed, self.epoch, self._rank, number])
        decoded = self._source.images(self._rows.table, share.rows(random))
        samples = (self._sample(row, pixels) for row, pixels in decoded)
        return mixed(samples, self._buffer, random) if random is not None and self._buffer else samples

    def _share(self) -> Groups:
        """What this rank reads, in the order of the epoch."""
        groups = self._rows.groups
        if self._shuffle:
            groups = groups.shuffled(np.random.default_rng([self._seed, self.epoch]))
        shares = groups.shares(self._world_size)
        share = shares[self._rank]
        return share.cut(min(each.images for each in shares)) if self._drop_last else share

    def _sample(self, row: dict[str, Any], pixels: Pixels) -> dict[str, Any]:
        image: Any = torch.from_numpy(np.array(pixels.transpose(2, 0, 1), order="C"))
        if self._transform is not None:
            image = self._transform(image)
        return {"image": image, **{name: row[name] for name in self._rows.columns}}


def mixed(items: Iterator[Item], held: int, random: np.random.Generator) -> Iterator[Item]:
    """Items in another order: each takes the place of one that is picked at random from so many."""
    waiting: list[Item] = []
    for item in items:
        if len(waiting) < held:
            waiting.append(item)
            continue
        place = int(random.integers(held))
        waiting[place], item = item, waiting[place]
        yield item
    for place in random.permutation(len(waiting)):
        yield waiting[place]


def _place(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Which of how many processes this is."""
    if (rank is None) != (world_size is None):
        raise UsageError("rank and world_size belong together; give both or neither")
    if rank is not None and world_size is not None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank: {rank} is not one of {world_size} ranks, which are counted from 0")
        return rank, world_size
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1
