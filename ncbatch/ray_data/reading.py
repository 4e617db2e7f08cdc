"""The function that makes a data set of a run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import ray.data

from ncbatch.api.places import path_text, store_options
from ncbatch.datasets.rows import RunRows
from ncbatch.datasets.source import OnError, RunSource
from ncbatch.ray_data.run_datasource import RunDatasource
from ncbatch.store import open_store


def read_run(
    uri: str | os.PathLike[str],
    *,
    variant: str | None = None,
    where: str | None = None,
    columns: Sequence[str] = ("image_key",),
    on_error: OnError = "raise",
    num_cpus: float | None = None,
    num_gpus: float | None = None,
    concurrency: int | None = None,
    override_num_blocks: int | None = None,
    endpoint_url: str | None = None,
    region: str | None = None,
    storage_options: Mapping[str, str] | None = None,
) -> ray.data.Dataset:
    """The images of an encoded run as a data set of Ray Data, decoded by its read tasks.

    The run's table is read now, the images when the data set is used. A read task holds a few bitstreams, or
    one pack and its images, and 32 MB of decoded images. Every node needs ncbatch, access to the run's
    folder, and credentials in its environment.

    Args:
        uri: The run's output folder: an `s3://bucket/prefix` URI, a `file://` URI or a path that all nodes
            share.
        variant: The name of the variant; may be left out where there is only one.
        where: Only images whose row fits this condition in DuckDB's SQL, such as `"psnr > 30"`.
        columns: Columns of the run's table that come with each image.
        on_error: What an image does whose bytes are missing or damaged: "raise" an error that names it, or
            "skip", with a warning in the task's log.
        num_cpus: CPUs that each read task reserves; by default 1.
        num_gpus: GPUs, or a part of one, that each read task reserves, and decodes on; by default none.
        concurrency: How many read tasks run at once; by default Ray decides.
        override_num_blocks: How many read tasks there are; by default Ray decides, by the size of the pixels.
        endpoint_url: The S3 server that an `s3://` URI refers to; by default the environment's.
        region: The region of that server; by default the environment's.
        storage_options: What else S3 needs, by the keys of `--storage-option`.

    Returns:
        A data set with the column `image`, tensors uint8[height, width, 3] in RGB as `ray.data.read_images`
        has them, and the columns by their names.

    Raises:
        NcbatchError: There is no run, its store cannot be reached, no image is wanted, or the condition or a
            column is wrong. An image that cannot be decoded fails the data set when it is used.
        TypeError: `uri` is neither text nor a path.
    """
    options = store_options(endpoint_url, region, storage_options)
    store = open_store(path_text(uri, "uri"), options)
    store.check()
    source = RunSource(store.uri, on_error, "cuda" if num_gpus else "cpu", options)
    return ray.data.read_datasource(
        RunDatasource(source, RunRows.read(store, variant, where, columns)),
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        concurrency=concurrency,
        override_num_blocks=override_num_blocks,
    )
