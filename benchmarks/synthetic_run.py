"""A large run without images: its plan, commits and table are real, its bitstreams do not exist.

What reads tables at the size of a real corpus is measured on it; numbers are drawn with a fixed seed. It is
made in chunks, so that a run of any size fits into memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone

import numpy as np
import pyarrow as pa

from ncbatch import __version__, layout
from ncbatch.codec.methods import Sga
from ncbatch.layout import unit_key
from ncbatch.metrics.compact import compact
from ncbatch.metrics.schema import SCHEMA, table_to_parquet
from ncbatch.plan.plan_files import write_plan
from ncbatch.plan.spec import RunFile, RunSpec, Variant
from ncbatch.plan.units import PlannedImage, Unit, make_units
from ncbatch.store import Store

STARTED = datetime(2026, 3, 2, 8, 0, tzinfo=timezone.utc)
FAILURES = {
    "truncated": "The file ends after 51,200 of 80,412 bytes; copy the file again from its source.",
    "transparent": "Pixels are transparent; choose what lies behind with --alpha white or --alpha black.",
    "out_of_memory": "the image does not fit in memory: 412 megapixels",
}
"""Classes of error with a reason each; by default one image in 150 fails, of the first class most."""

UNIT_IMAGES = 100
UNIT_PIXELS = UNIT_IMAGES * 768 * 512

_HOSTS = 4
_CHUNK, _CHUNK_SECONDS = 100_000, 456_000


def synthetic_spec(corpus: str) -> RunSpec:
    """A run of one SGA variant."""
    recipe = Sga(lmbda=0.01, steps=2000)
    variant = Variant(name="sga", model="base-0.010", model_digest="0" * 64, recipe=recipe)
    return RunSpec(corpus=corpus, variants=(variant,))


def synthetic_image(number: int) -> PlannedImage:
    """The image of this number; keys are in the order of the numbers."""
    key = f"2026/{number // 1000:06d}/image-{number:09d}.jpg"
    etag = f"{(number + 1) * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128:032x}"
    return PlannedImage(key, etag, 250_000 + number % 90_000, 768, 512)


@dataclass(frozen=True)
class Chunk:
    """Some of a run's units, and the rows that they have when they are committed, in the same order."""

    units: list[Unit]
    rows: pa.Table

    def commits(self) -> Iterator[tuple[str, bytes]]:
        """The key and the bytes of each unit's commit."""
        start = 0
        for unit in self.units:
            yield unit_key(unit.id), table_to_parquet(self.rows.slice(start, len(unit.images)))
            start += len(unit.images)


def synthetic_chunks(spec: RunSpec, images: int, failed_share: float = 1 / 150) -> Iterator[Chunk]:
    """A run of the spec's only variant, chunk by chunk."""
    (variant,) = spec.variants
    for number, first in enumerate(range(0, images, _CHUNK)):
        planned = [synthetic_image(n) for n in range(first, min(first + _CHUNK, images))]
        units = list(make_units(planned, variant.name, variant.digest, 0, UNIT_PIXELS))
        yield Chunk(units, _rows(units, variant, failed_share, number))


def write_run_file(output: Store, spec: RunSpec, plan: tuple[str, ...]) -> None:
    """Writes `run.json`, which makes a folder a run."""
    content = RunFile(
        spec=spec,
        digest=spec.digest,
        plan=plan,
        ncbatch_version=__version__,
        torch_version="0",
        created_at=STARTED.isoformat(timespec="seconds"),
    )
    output.put(layout.RUN, content.model_dump_json(indent=1).encode())


def make_synthetic_run(
    output: Store, corpus: str, images: int, *, compacted: bool = False, failed_share: float = 1 / 150
) -> RunSpec:
    """Writes a finished run of one SGA variant.

    Args:
        compacted: merge the commits into parts, as `ncbatch compact` does.
    """
    spec = synthetic_spec(corpus)
    plan: tuple[str, ...] = ()
    for chunk in synthetic_chunks(spec, images, failed_share):
        plan += write_plan(output, chunk.units, 0)
        for key, data in chunk.commits():
            output.put(key, data)
    write_run_file(output, spec, plan)
    if compacted:
        compact(output)
    return spec


def _rows(units: list[Unit], variant: Variant, failed_share: float, number: int) -> pa.Table:
    """The rows of the chunk of this number."""
    images = [image for unit in units for image in unit.images]
    random = np.random.default_rng(number)
    count = len(images)
    detail = random.normal(size=count)
    failed = random.random(count) < failed_share
    classes = random.choice(list(FAILURES), count, p=(0.7, 0.2, 0.1))
    bpp = 0.5 * np.exp(0.35 * detail)
    psnr = 33.5 - 1.8 * detail + random.normal(0, 0.6, count)
    amortized = bpp * 1.02 + 0.01 * 65025 * 10 ** (-(psnr - 0.45) / 10)
    seconds = 18 * np.exp(random.normal(0, 0.15, count))
    host = np.arange(count) // UNIT_IMAGES % _HOSTS
    finished = number * _CHUNK_SECONDS + np.cumsum(seconds) / _HOSTS
    length = (bpp * 768 * 512 / 8).astype(int)
    ok = ~failed

    def where_ok(values: np.ndarray | list) -> pa.Array:
        return pa.array(values, mask=failed)

    def times(at: np.ndarray) -> np.ndarray:
        return ((STARTED.timestamp() + at) * 1e6).astype("datetime64[us]")

    columns = {
        "image_key": [image.key for image in images],
        "image_etag": [image.etag for image in images],
        "image_bytes": [image.bytes for image in images],
        "width": where_ok(np.full(count, 768)),
        "height": where_ok(np.full(count, 512)),
        "variant": pa.repeat("sga", count),
        "variant_digest": pa.repeat(variant.digest, count),
        "model": pa.repeat(variant.model, count),
        "model_digest": pa.repeat(variant.model_digest, count),
        "lmbda": np.full(count, 0.01),
        "method": pa.repeat("sga", count),
        "steps": np.full(count, 2000),
        "seed": np.zeros(count, int),
        "status": np.where(ok, "ok", "failed").tolist(),
        "error_class": pa.array(classes.tolist(), mask=ok),
        "error": pa.array([FAILURES[name] for name in classes], mask=ok),
        "bpp": where_ok(bpp),
        "psnr": where_ok(psnr),
        "ms_ssim": where_ok(1 - 0.02 * np.exp(0.3 * detail)),
        "mse": where_ok(65025 * 10 ** (-psnr / 10)),
        "rd_loss": where_ok(bpp + 0.01 * 65025 * 10 ** (-psnr / 10)),
        "amortized_bpp": where_ok(bpp * 1.02),
        "amortized_psnr": where_ok(psnr - 0.45),
        "amortized_rd_loss": where_ok(amortized),
        "bitstream_key": where_ok([layout.bitstream_key("sga", image.key, 0) for image in images]),
        "offset": where_ok(np.zeros(count, int)),
        "length": where_ok(length),
        "sha256": where_ok([hashlib.sha256(image.key.encode()).hexdigest() for image in images]),
        "encode_seconds": where_ok(seconds * 4),
        "device_seconds": where_ok(seconds),
        "decode_seconds": where_ok(seconds / 100),
        "batch_size": where_ok(np.full(count, 4)),
        "device": pa.repeat("cuda", count),
        "host": [f"gpu-{n}" for n in host],
        "unit": [unit.id for unit in units for _ in unit.images],
        "attempt": pa.repeat("00000001-1", count),
        "generation": np.zeros(count, int),
        "adopted": np.zeros(count, bool),
        "started_at": where_ok(times(finished - seconds)),
        "finished_at": times(finished),
        "ncbatch_version": pa.repeat(__version__, count),
    }
    arrays = [
        pa.array(columns[field.name]).cast(field.type)
        if field.name in columns
        else pa.nulls(count, field.type)
        for field in SCHEMA
    ]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)
